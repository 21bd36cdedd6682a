"use strict";
(() => {
  const PAGE = 50;
  const rows = [...document.querySelectorAll(".rows-table tbody tr")];
  const pages = Math.ceil(rows.length / PAGE);
  let page = 0;

  function turn(to) {
    page = Math.max(0, Math.min(pages - 1, to));
    rows.forEach((row, place) => { row.hidden = Math.floor(place / PAGE) !== page; });
    document.getElementById("page").textContent = `page ${page + 1} of ${pages}`;
    document.getElementById("back").disabled = page === 0;
    document.getElementById("on").disabled = page === pages - 1;
  }
  if (pages > 1) {
    document.querySelector(".pages").hidden = false;
    document.getElementById("back").addEventListener("click", () => turn(page - 1));
    document.getElementById("on").addEventListener("click", () => turn(page + 1));
    turn(0);
  }

  // ---- findings that are loaded on demand: every text goes in as text

  function put(parent, tag, words, kind) {
    const node = document.createElement(tag);
    if (words !== undefined) node.textContent = words;
    if (kind) node.className = kind;
    parent.append(node);
    return node;
  }

  function entry(parent, item) {
    const node = put(parent, "details", undefined, `more-entry entry ${item.outcome}`);
    const summary = put(node, "summary");
    put(summary, "span", item.outcome, `pill ${item.outcome}`);
    summary.append(" ");
    put(summary, "span", item.target, "where");
    summary.append(" ");
    put(summary, "span", item.question || item.texts[0][1], "gist");
    const body = put(node, "div", undefined, "body");
    for (const [role, text] of item.texts) {
      const said = put(body, "div", undefined, "said");
      put(said, "b", role);
      put(said, "pre", text);
    }
    const measured = Object.entries(item.measured).map(([name, value]) => `${name} ${value}`).join(", ");
    if (measured) put(body, "p", measured, "dim");
    put(put(body, "p", undefined, "again"), "code", item.replay);
  }

  const places = new Map([...document.querySelectorAll(".loaded")].map((node) => [node.dataset.gate, node]));
  window.aprQa = (gate, items) => {
    const list = places.get(gate).querySelector(".list");
    for (const item of items) entry(list, item);
  };
  for (const place of places.values()) {
    const files = place.dataset.files.split(" ");
    put(place, "div", undefined, "list");
    const button = put(place, "button", "Load findings");
    button.type = "button";
    button.addEventListener("click", () => {
      button.disabled = true;
      const script = document.createElement("script");
      script.src = files.shift();
      script.onload = () => { button.disabled = false; button.hidden = !files.length; button.textContent = "Load more findings"; };
      script.onerror = () => { button.disabled = false; button.textContent = "The file is not beside this page: report-details"; };
      document.head.append(script);
    });
  }
})();
