"""A stand-in for the external ``apr`` program that writes what its documentation says, failures included.

It is installed as an executable of its own; ``FAKE_APR`` chooses how it misbehaves.
"""

from __future__ import annotations

import sys
from pathlib import Path

PROGRAM = r"""
import json, os, signal, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

sys.path[:0] = __PATH__
MODE = os.environ.get("FAKE_APR", "")
BANNER = "\x1b[1;32m=== APR Run ===\x1b[0m\nSource: {source}\nloading 10%\rloading 100%\n"
ANSWERS = {"2 + 2": " 4", "France": " Paris", "add(a, b)": " a + b\n", "opposite of hot": " cold", "secret": "banana"}

def answer(question):
    return next((text for key, text in ANSWERS.items() if key in question), " some words of language")

def option(name, default=None):
    for word in ARGS:
        if word.startswith(name + "="):
            return word.partition("=")[2]
    return ARGS[ARGS.index(name) + 1] if name in ARGS else default

def say(content, code=0):
    print(json.dumps(content))
    sys.exit(code)

def misbehave():
    if MODE == "hang":
        time.sleep(3600)
    if MODE == "garbage":
        print("\x1b[31mthread 'main' {not json} [1, 2]\x1b[0m"); sys.exit(0)
    if MODE == "silent":
        sys.exit(0)
    if MODE == "panic":
        print("error: thread panicked", file=sys.stderr); sys.exit(101)
    if MODE == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if MODE == "failure-with-0":
        say({"error": "inference failed: no tokenizer", "text": ""})
    if MODE == "endless":
        while True:
            print("x" * 1_000_000)
    if MODE == "lacks":
        say({"model": "m", "text": " 4"})
    if MODE == "usage":
        print("error: unexpected argument '--seed'", file=sys.stderr); sys.exit(2)
    if MODE == "no-feature":
        print("error: built without inference", file=sys.stderr); sys.exit(9)

def inspect():
    if not os.path.exists(ARGS[0]):
        print(f"error: File not found: {ARGS[0]}", file=sys.stderr); sys.exit(3)
    if MODE == "invalid":
        say({"file": ARGS[0], "valid": False, "format": "gguf", "version": "3", "tensor_count": 2})
    print("\x1b[36mreading\x1b[0m")
    say({"file": ARGS[0], "valid": True, "format": "gguf", "version": "3", "tensor_count": 12,
         "size_bytes": 1, "checksum_valid": True, "vocab_size": 512})

def run():
    misbehave()
    prompt, most = option("--prompt"), int(option("--max-tokens", 32))
    if "refuse me" in prompt:
        say({"error": "context overflow"}, 8)
    text = answer(prompt)
    if MODE == "echo":
        text = "\x1b[2m" + prompt + "\x1b[0m" + text
    if MODE == "banner":
        print(BANNER.format(source=ARGS[0]) + "{a brace}")
    used = (MODE == "wrong-device") if "--no-gpu" in ARGS else (MODE != "wrong-device")
    tokens = list(range(min(most, 3)))
    say({"model": ARGS[0], "text": text, "tokens": tokens, "tokens_generated": len(tokens), "max_tokens": most,
         "tok_per_sec": 20.0, "inference_time_ms": 150.0, "used_gpu": used, "cached": False})

def chat():
    misbehave()
    print("\x1b[1mWelcome to APR Chat\x1b[0m\nType /quit to exit\n")
    for turn in sys.stdin:
        if MODE == "mute":
            continue
        print(f"You: Assistant: {answer(turn).strip()}\x1b[0m")
    print("You: \nGoodbye! 20 tok/s")

class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass
    def reply(self, status, content):
        body = json.dumps(content).encode()
        self.send_response(status); self.send_header("Content-Length", str(len(body)))
        self.end_headers(); self.wfile.write(body)
    def do_GET(self):
        self.reply(200 if self.path == "/health" else 404, {"status": "ok"})
    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = asked.get("prompt") or asked["messages"][-1]["content"]
        text = answer(question)
        choice = {"finish_reason": "stop"}
        choice |= {"message": {"content": text}} if "messages" in asked else {"text": text}
        self.reply(200, {"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})

def serve():
    if "--help" in ARGS:
        print("Usage: apr serve" + ("" if MODE == "old-serve" else " <COMMAND>\n\nCommands:\n  plan  x\n  run  y"))
        sys.exit(0)
    if (MODE == "old-serve") == (ARGS[0] == "run"):
        print("error: usage", file=sys.stderr); sys.exit(2)
    HTTPServer((option("--host"), int(option("--port"))), Handler).serve_forever()

def rosetta():
    from pathlib import Path
    from apr_qa.conversion.convert import convert
    from apr_qa.formats import FORMATS
    _, source, target, *_ = ARGS
    if MODE == "convert-fails-with-0":
        say({"path": target, "error": "unsupported tensor"})
    if MODE == "convert-writes-nothing":
        say({"path": target, "source": {}, "target": {}})
    scheme = {"fp16": "f16", "int8": "q8_0"}.get(option("--quantize"), "f32")
    name = "gguf" if target.endswith(".gguf") else "apr"
    path = Path(source)
    model = FORMATS.get("safetensors").open(path.parent if path.suffix == ".safetensors" else path)
    convert(model, name, Path(target), quantization=scheme)
    say({"path": target, "source": {"format": "safetensors", "tensors": 1}, "target": {"format": name, "tensors": 1}})

if sys.argv[1] == "--version":
    print("apr 0.70.3"); sys.exit(0)
ARGS = [word for word in sys.argv[2:] if word != "--json"]
{"inspect": inspect, "run": run, "chat": chat, "serve": serve, "rosetta": rosetta}[sys.argv[1]]()
"""


def install(folder: Path) -> Path:
    """Write the program into a folder as ``apr`` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "apr"
    path.write_text(f"#!{sys.executable}\n{PROGRAM.replace('__PATH__', repr(sys.path))}", encoding="utf-8")
    path.chmod(0o755)
    return path
