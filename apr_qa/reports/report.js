"use strict";
(() => {
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const unfold = document.getElementById("unfold");
  const heading = document.getElementById("evidence");
  const facets = ["outcome", "severity", "format", "device", "modality"];
  const entries = [...document.querySelectorAll(".entry")].map((node) => ({ node, gate: node.closest(".gate") }));
  const gates = [...document.querySelectorAll(".gate")];

  const text = (entry) => (entry.text ??= `${entry.gate.id} ${entry.node.id} ${entry.node.textContent}`.toLowerCase());

  function matches(entry, wanted, words) {
    for (const [name, value] of wanted) {
      const own = entry.node.dataset[name];
      const hit = value === "open" ? !["corroborated", "inapplicable", "skipped"].includes(own) : own === value;
      if (!hit) return false;
    }
    return words.every((word) => text(entry).includes(word));
  }

  function apply() {
    const wanted = facets.map((name) => [name, form.elements[name].value]).filter(([, value]) => value);
    const words = form.elements.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    const alive = new Set();
    let count = 0;
    for (const entry of entries) {
      const hit = matches(entry, wanted, words);
      entry.node.hidden = !hit;
      if (hit) { count += 1; alive.add(entry.gate); }
    }
    const all = !wanted.length && !words.length;
    for (const gate of gates) gate.hidden = !all && !alive.has(gate);
    shown.textContent = all ? `${entries.length} entries` : `${count} of ${entries.length} entries`;
    label();
  }

  function remember() {
    const state = new URLSearchParams();
    for (const name of ["q", ...facets]) if (form.elements[name].value) state.set(name, form.elements[name].value);
    const hash = state.toString();
    history.replaceState(null, "", hash ? `#${hash}` : "#evidence");
  }

  function recall(event) {
    const hash = location.hash.slice(1);
    if (hash.includes("=")) {
      const state = new URLSearchParams(hash);
      for (const name of ["q", ...facets]) form.elements[name].value = state.get(name) ?? "";
      for (const name of facets) if (form.elements[name].selectedIndex < 0) form.elements[name].value = "";
      apply();
      heading.scrollIntoView();
      if (event) heading.focus({ preventScroll: true });
      return;
    }
    const node = hash && document.getElementById(hash);
    if (!node) return;
    if (node.hidden || node.closest("[hidden]")) { form.reset(); apply(); }
    if (node.matches("details")) { node.open = true; node.querySelector("summary").focus({ preventScroll: true }); }
    node.scrollIntoView();
  }

  const visible = () => entries.filter((entry) => !entry.node.hidden);
  const label = () => { unfold.textContent = visible().every((entry) => entry.node.open) ? "Close all" : "Open all"; };

  form.addEventListener("input", () => { apply(); remember(); });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(() => { apply(); remember(); }));
  unfold.addEventListener("click", () => {
    const open = unfold.textContent === "Open all";
    for (const entry of visible()) entry.node.open = open;
    label();
  });
  document.addEventListener("toggle", label, true);
  addEventListener("hashchange", recall);
  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#"]');
    if (link && link.hash === location.hash) recall(event);
  });
  addEventListener("beforeprint", () => {
    for (const { node } of entries) if (node.matches(".falsified, .timeout, .crashed, .inconclusive")) node.open = true;
  });
  apply();
  recall();
})();
