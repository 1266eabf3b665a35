"use strict";
(async () => {
  const PAGE = 1500; // tokens in view at a time
  const PASSAGE = 40; // tokens of a dear passage
  const EDGES = { bits: [0.5, 1, 2, 3, 4, 6, 8, 12], gain: [-4, -1.5, -0.5, 0.5, 1.5, 4] };
  const $ = (id) => document.getElementById(id);
  const make = (name, text = "", attributes = {}) => {
    const node = document.createElement(name);
    node.textContent = text;
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    return node;
  };

  // The tables sort and the charts answer, whether or not the text can be unpacked.
  for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
  tips();
  const view = await unpack($("data").textContent);
  const { head, arrays } = view;
  const tokens = join("token");
  const bits = {};
  for (const [index, scorer] of head.scorers.entries()) {
    const own = arrays[`bits.${scorer.key}`];
    const base = arrays[`bits.${head.scorers[0].key}`];
    bits[scorer.key] = index ? own.map((value, t) => value + base[t]) : own; // modulo 256, as a byte is
  }
  const network = likeliest("network"), mixture = likeliest("mixture");
  const pieces = head.pieces.map((piece) => Uint8Array.from(piece, (c) => c.charCodeAt(0)));
  const pages = paginate();
  const state = { page: 0, scorer: head.scorers[0].key, chosen: -1, marked: [-1, -1] };

  async function unpack(text) {
    const packed = Uint8Array.from(atob(text.trim()), (c) => c.charCodeAt(0));
    const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
    const data = new Uint8Array(await new Response(stream).arrayBuffer());
    const length = new DataView(data.buffer).getUint32(0, true);
    const head = JSON.parse(new TextDecoder().decode(data.subarray(4, 4 + length)));
    const arrays = {};
    let at = 4 + length;
    for (const [name, size] of Object.entries(head.arrays)) arrays[name] = data.subarray(at, (at += size));
    return { head, arrays };
  }

  function join(name) {
    const low = arrays[`${name}.low`], high = arrays[`${name}.high`];
    return Uint16Array.from(low, (value, i) => value + 256 * high[i]);
  }

  function likeliest(name) {
    const found = [];
    for (let k = 0; arrays[`${name}.p${k}`]; k++) found.push({ ids: join(`${name}.id${k}`), halvings: arrays[`${name}.p${k}`] });
    return found;
  }

  function paginate() {
    const found = [];
    for (const [number, start] of head.docStarts.entries()) {
      const end = number + 1 < head.docStarts.length ? head.docStarts[number + 1] : tokens.length;
      for (let from = start; from < end; from += PAGE) found.push({ number, start, from, to: Math.min(from + PAGE, end) });
    }
    return found;
  }

  // Token i of the stream is target i - 1; the very first is predicted by nobody.
  const cost = (i, key) => (i ? bits[key][i - 1] / head.unit : 0);
  const gain = (i) => cost(i, head.scorers[0].key) - cost(i, "hedge");
  const shade = (i) => {
    const [kind, value] = state.scorer === "gain" ? ["gain", gain(i)] : ["bits", cost(i, state.scorer)];
    return (kind === "gain" ? "g" : "c") + EDGES[kind].filter((edge) => value >= edge).length;
  };
  const isStart = (i) => head.docStarts.includes(i);
  const plain = (...ids) => new TextDecoder().decode(Uint8Array.from(ids.flatMap((id) => [...pieces[id]])));
  const named = (id) => {
    if (!pieces[id].length) return "(start of a document)";
    const text = plain(id);
    return text.includes("\ufffd") ? `byte ${[...pieces[id]].map((b) => b.toString(16)).join(" ")}` : text.replace(/\n/g, "\u21b5");
  };
  const percent = (p) => (p >= 0.1 ? `${(100 * p).toFixed(0)} %` : p >= 0.001 ? `${(100 * p).toFixed(1)} %` : "< 0.1 %");
  const scorerName = (key) => head.scorers.find((scorer) => scorer.key === key)?.name ?? "what the mixture saved";

  function draw() {
    const page = pages[state.page], box = $("tokens");
    const decoder = new TextDecoder(); // a character of several tokens is shown at its last
    box.textContent = "";
    for (let i = page.from; i < page.to; i++) {
      const start = isStart(i);
      let text = start ? "\u00b6 " : decoder.decode(pieces[tokens[i]], { stream: true });
      if (text === "") text = "\u00b7";
      if (text.startsWith("\n")) text = "\u21b5" + text;
      const classes = [shade(i), i >= state.marked[0] && i < state.marked[1] ? "mark" : ""].join(" ");
      box.append(make("span", text, { class: classes, "data-i": i, tabindex: -1 }));
    }
    const within = pages.filter((other) => other.number === page.number);
    $("where").textContent = `document ${page.number}, page ${within.indexOf(page) + 1} of ${within.length}`;
    $("document").value = page.number;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page === pages.length - 1;
    box.firstChild.tabIndex = 0;
    box.scrollTop = 0;
  }

  function turn(to, chosen = null, focus = false) {
    state.page = Math.max(0, Math.min(pages.length - 1, to));
    draw();
    choose(chosen ?? pages[state.page].from, focus);
  }

  function open(i, length) {
    state.marked = [i, i + length];
    turn(pages.findIndex((page) => i >= page.from && i < page.to), i, true);
    spanOf(i).scrollIntoView({ block: "center" });
  }

  const spanOf = (i) => $("tokens").children[i - pages[state.page].from];

  function choose(i, focus = false) {
    for (const old of $("tokens").querySelectorAll(".chosen")) {
      old.classList.remove("chosen");
      old.tabIndex = -1;
    }
    const span = spanOf(i);
    if (!span) return;
    $("tokens").firstChild.tabIndex = -1;
    span.classList.add("chosen");
    span.tabIndex = 0;
    if (focus) span.focus({ preventScroll: false });
    if (state.chosen !== i) about(i);
    state.chosen = i;
  }

  function about(i) {
    const box = $("about");
    box.textContent = "";
    const line = make("p", "Token ");
    line.append(make("code", named(tokens[i])), ` is ${i.toLocaleString("en")} of the text.`);
    box.append(line);
    if (i === 0) return box.append(make("p", "Nothing comes before it, so it is not scored."));
    const saved = gain(i);
    const words = Math.abs(saved) < 0.05 ? "changed nothing" : saved > 0 ? `saved ${saved.toFixed(1)} bits` : `cost ${(-saved).toFixed(1)} bits more`;
    box.append(make("p", `The mixture ${words} here.`));
    const table = make("table");
    table.append(row(["scorer", "bits", "probability"], "th"));
    for (const { key, name } of head.scorers) {
      const value = cost(i, key);
      table.append(row([name, value >= 255 / head.unit ? "31.9 or more" : value.toFixed(1), percent(2 ** -value)], "td", key === state.scorer));
    }
    box.append(candidates("The network expected", network, i - 1, tokens[i]));
    const place = passagePlace(i - 1);
    if (place < 0) box.append(make("p", "What the mixture expected was not recorded here; see the passages below."));
    else box.append(candidates("The mixture expected", mixture, place, tokens[i]));
    box.append(table);
  }

  // Where a target stands among those whose mixture is known; -1 where it is not.
  function passagePlace(target) {
    let before = 0;
    for (const [first, length] of head.passages) {
      if (target >= first && target < first + length) return before + target - first;
      before += length;
    }
    return -1;
  }

  function candidates(title, from, place, truth) {
    const table = make("table");
    table.append(make("caption", title));
    if (!from.length || place >= from[0].ids.length) return make("p", `${title}: not kept for this token, so that the page stays small.`);
    for (const { ids, halvings } of from) {
      const came = ids[place] === truth;
      const name = make("code", named(ids[place]));
      const cell = make("span");
      cell.append(name, came ? " came" : "");
      table.append(row([cell, percent(2 ** (-halvings[place] / head.unit))], "td", came));
    }
    return table;
  }

  function row(cells, kind, bold = false) {
    const line = make("tr", "", bold ? { class: "true" } : {});
    for (const cell of cells) {
      const node = make(kind, "", kind === "th" ? { scope: "col" } : {});
      node.append(cell);
      line.append(node);
    }
    return line;
  }

  function dearest() {
    const sums = new Float64Array(tokens.length + 1);
    for (let i = 0; i < tokens.length; i++) sums[i + 1] = sums[i] + (state.scorer === "gain" ? gain(i) : cost(i, state.scorer));
    const length = Math.min(PASSAGE, tokens.length), starts = [];
    for (let i = 0; i + length <= tokens.length; i++) starts.push([sums[i + length] - sums[i], i]);
    starts.sort((a, b) => b[0] - a[0]);
    const taken = [];
    for (const [sum, i] of starts) {
      if (taken.length === 12) break;
      if (taken.every(([, other]) => Math.abs(other - i) >= length)) taken.push([sum, i]);
    }
    const list = $("dear");
    list.textContent = "";
    for (const [sum, i] of taken) {
      const text = plain(...tokens.subarray(i, i + length)).replace(/\s+/g, " ");
      const item = make("li"), button = make("button", `${sum.toFixed(0)} bits`, { type: "button" });
      button.addEventListener("click", () => open(i, length));
      item.append(button, `, ${(sum / length).toFixed(1)} a token: `, make("code", text.slice(0, 150)));
      list.append(item);
    }
  }

  function legend() {
    const gains = state.scorer === "gain", edges = EDGES[gains ? "gain" : "bits"], box = $("legend");
    box.textContent = gains ? "Bits that the mixture saved: " : `Bits of a token, ${scorerName(state.scorer)}: `;
    for (let k = 0; k <= edges.length; k++) {
      const text = k === 0 ? `below ${edges[0]}` : k === edges.length ? `${edges[k - 1]} or more` : `${edges[k - 1]} to ${edges[k]}`;
      box.append(make("span", text, { class: (gains ? "g" : "c") + k }));
    }
  }

  for (const { key, name } of head.scorers) $("scorer").append(make("option", name, { value: key }));
  $("scorer").append(make("option", "what the mixture saved", { value: "gain" }));
  for (const [number, start] of head.docStarts.entries()) {
    const text = plain(...tokens.subarray(start + 1, start + 14)).replace(/\s+/g, " ");
    $("document").append(make("option", `${number}: ${text}`, { value: number }));
  }
  for (const [first, length] of head.passages) {
    const item = make("li"), button = make("button", `tokens ${(first + 1).toLocaleString("en")} to ${(first + length).toLocaleString("en")}`, { type: "button" });
    button.addEventListener("click", () => open(first + 1, length));
    item.append(button);
    $("mixed").append(item);
  }
  $("scorer").addEventListener("change", (event) => {
    state.scorer = event.target.value;
    const chosen = state.chosen;
    draw();
    state.chosen = -1;
    choose(chosen);
    legend();
    dearest();
  });
  const openDocument = (number) => turn(pages.findIndex((page) => page.number === Number(number)));
  $("document").addEventListener("change", (event) => openDocument(event.target.value));
  $("previous").addEventListener("click", () => turn(state.page - 1));
  $("next").addEventListener("click", () => turn(state.page + 1));
  let pointer = ""; // text that scrolls below a resting pointer is not pointed at
  $("tokens").addEventListener("mousemove", (event) => {
    const before = pointer;
    pointer = `${event.screenX} ${event.screenY}`;
    if (event.target.dataset.i && before !== pointer) choose(Number(event.target.dataset.i));
  });
  $("tokens").addEventListener("focusin", (event) => event.target.dataset.i && choose(Number(event.target.dataset.i)));
  $("tokens").addEventListener("keydown", (event) => {
    const page = pages[state.page], at = state.chosen;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: beside(at, 1), ArrowUp: beside(at, -1), Home: page.from, End: page.to - 1 }[event.key];
    if (event.key === "PageDown" || event.key === "PageUp") turn(state.page + (event.key === "PageDown" ? 1 : -1), null, true);
    else if (to === undefined || event.ctrlKey || event.altKey || event.metaKey) return;
    else if (to >= page.to && state.page + 1 < pages.length) turn(state.page + 1, page.to, true);
    else if (to < page.from && state.page > 0) turn(state.page - 1, page.from - 1, true);
    else choose(Math.max(page.from, Math.min(page.to - 1, to)), true);
    event.preventDefault();
  });
  for (const link of document.querySelectorAll("a[data-document]")) link.addEventListener("click", () => openDocument(link.dataset.document));

  // The token nearest above or below: the next line of the text as it is laid out.
  function beside(i, direction) {
    const from = spanOf(i).getBoundingClientRect(), page = pages[state.page];
    for (let j = i + direction, best = -1, line = 0; ; j += direction) {
      const span = j >= page.from && j < page.to ? spanOf(j) : null;
      const box = span?.getBoundingClientRect();
      const moved = box && direction * (box.top - from.top) > 4;
      if (best >= 0 && (!box || direction * (box.top - line) > 4)) return best;
      if (!box) return direction > 0 ? page.to - 1 : page.from;
      if (!moved) continue;
      if (best < 0) line = box.top;
      if (best < 0 || Math.abs(box.left - from.left) < Math.abs(spanOf(best).getBoundingClientRect().left - from.left)) best = j;
    }
  }

  function sortable(table) {
    const heads = [...table.querySelectorAll("th")];
    heads.forEach((th, column) => {
      const button = make("button", th.textContent, { type: "button" });
      th.textContent = "";
      th.append(button);
      button.addEventListener("click", () => {
        const down = th.getAttribute("aria-sort") !== "descending";
        for (const other of heads) other.removeAttribute("aria-sort");
        th.setAttribute("aria-sort", down ? "descending" : "ascending");
        const body = table.tBodies[0], rows = [...body.rows];
        const key = (line) => line.cells[column].textContent.replace(/[,%]/g, "");
        const numbers = rows.every((line) => key(line) === "" || !isNaN(key(line)));
        const order = (a, b) => (numbers ? Number(key(a) || -1) - Number(key(b) || -1) : key(a).localeCompare(key(b)));
        rows.sort((a, b) => (down ? order(b, a) : order(a, b)));
        body.append(...rows);
      });
    });
  }

  function tips() {
    const tip = $("tip");
    document.addEventListener("mousemove", (event) => {
      const mark = event.target.closest?.("svg [aria-roledescription=point], svg [aria-roledescription=bar], svg [aria-roledescription='rect mark']");
      const words = mark?.getAttribute("aria-label");
      tip.hidden = !words;
      if (!words) return;
      tip.textContent = words;
      tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
      tip.style.top = `${event.clientY + 14}px`;
    });
  }

  turn(0);
  legend();
  dearest();
  document.body.dataset.ready = "yes";
})();
