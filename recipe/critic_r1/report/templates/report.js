"use strict";
// Everything a model or a data set wrote arrives as JSON and is put in place with textContent: never as markup.
(() => {
  const read = (id) => JSON.parse(document.getElementById(id).textContent);
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };

  // --- light and dark ---
  const schemes = ["system", "light", "dark"];
  const schemeButton = document.getElementById("scheme");
  schemeButton.addEventListener("click", () => {
    const now = schemes[(schemes.indexOf(schemeButton.dataset.scheme || "system") + 1) % schemes.length];
    schemeButton.dataset.scheme = now;
    schemeButton.textContent = "Scheme: " + now;
    document.documentElement.style.colorScheme = now === "system" ? "" : now;
  });

  // --- reading values off a chart ---
  const readouts = read("readouts");
  for (const figure of document.querySelectorAll(".chart")) {
    const chart = readouts[Number(figure.dataset.chart)];
    const svg = figure.querySelector("svg");
    const hair = figure.querySelector(".hair");
    const out = figure.querySelector(".readout");
    const box = svg.viewBox.baseVal;
    let at = -1;
    const show = (index) => {
      at = Math.max(0, Math.min(chart.x.length - 1, index));
      hair.style.left = (100 * chart.x[at]) / box.width + "%";
      hair.style.top = (100 * chart.top) / box.height + "%";
      hair.style.height = (100 * (chart.foot - chart.top)) / box.height + "%";
      hair.hidden = false;
      out.textContent = chart.text[at];
    };
    const hide = () => { hair.hidden = true; out.textContent = ""; at = -1; };
    svg.addEventListener("pointermove", (event) => {
      const place = svg.getBoundingClientRect();
      const x = ((event.clientX - place.left) / place.width) * box.width;
      let best = 0;
      chart.x.forEach((value, index) => { if (Math.abs(value - x) < Math.abs(chart.x[best] - x)) best = index; });
      show(best);
    });
    svg.addEventListener("pointerleave", hide);
    figure.addEventListener("blur", hide);
    figure.addEventListener("keydown", (event) => {
      const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Home") show(0);
      else if (event.key === "End") show(chart.x.length - 1);
      else if (event.key === "Escape") hide();
      else if (move) show(at < 0 ? (move > 0 ? 0 : chart.x.length - 1) : at + move);
      else return;
      event.preventDefault();
    });
  }

  // --- judgements ---
  if (!document.getElementById("cards")) return;
  const data = read("card-data");
  const place = document.getElementById("cards");
  const sideSelect = document.getElementById("side");
  const sortSelect = document.getElementById("sort");
  const search = document.getElementById("search");
  const buttons = document.getElementById("filters");
  const names = [...sideSelect.options].map((option) => option.value);
  const first = names[0];
  const state = { filter: "all", page: 0, found: [] };

  const kinds = ["wrong", "inconsistent", "unparsed", "unanswered", "right"];
  const is = {
    all: () => true,
    wrong: (card, side) => side.kind === "wrong",
    inconsistent: (card, side) => side.flips === true,
    unparsed: (card, side) => side.kind === "unparsed",
    unanswered: (card, side) => side.kind === "unanswered",
    right: (card, side) => side.kind === "right",
    learned: (card, side) => side.kind === "right" && card.sides[first] && card.sides[first].kind !== "right",
    lost: (card, side) => (side.kind === "wrong" || side.kind === "unparsed") && card.sides[first] && card.sides[first].kind === "right",
  };
  const titles = {
    learned: "Right here, not right in the first evaluation",
    lost: "Not right here, right in the first evaluation",
    inconsistent: "The verdicts of the two orders contradict each other",
  };
  const failed = (name) => (card) => card.sides[name] && card.sides[name].kind === "unanswered";
  const haystack = (card) => {
    card.haystack ??= [card.pair_id, card.question, card.response_1, card.response_2]
      .concat(Object.values(card.sides).flatMap((side) => [side.response, side.reason])).join("\n").toLowerCase();
    return card.haystack;
  };
  // The first kind that fits, so that every card stands in one heap when kinds take turns.
  const heap = (card, side) => kinds.find((kind) => is[kind](card, side)) || "right";

  const sorted = (cards, name) => {
    if (sortSelect.value === "file") return cards;
    const heaps = Object.fromEntries(kinds.map((kind) => [kind, []]));
    for (const card of cards) heaps[heap(card, card.sides[name])].push(card);
    if (sortSelect.value === "problems") return kinds.flatMap((kind) => heaps[kind]);
    const mixed = [];
    for (let turn = 0; mixed.length < cards.length; turn += 1) {
      for (const kind of kinds) if (turn < heaps[kind].length) mixed.push(heaps[kind][turn]);
    }
    return mixed;
  };

  const verdict = (text) => ({ "": "none", tie: "a tie", 1: "response 1", 2: "response 2" })[text] ?? text;

  const drawSide = (name, side, truth) => {
    const box = make("section", "side");
    const head = make("h4");
    head.append(make("span", "name", name));
    if (!side) {
      head.append(make("span", "", "not judged"));
      box.append(head);
      return box;
    }
    const marks = { right: "✓ right", wrong: "✗ wrong", unparsed: "? unparsed", unanswered: "– unanswered" };
    head.append(make("span", "chip " + side.kind, marks[side.kind]));
    if (side.flips) head.append(make("span", "chip flips", "⇄ flips"));
    box.append(head);
    if (side.thinking) box.append(make("div", "text thought long", side.thinking));
    if (side.kind === "unanswered") {
      box.append(make("p", "verdict", "The request failed, so this judgement counts nowhere."));
      return box;
    }
    const line = "Verdict: " + verdict(side.verdict) + (side.kind === "wrong" ? ", the label is " + verdict(truth) : "")
      + (side.kind === "unparsed" && side.reason ? " (" + side.reason + ")" : "");
    box.append(make("p", "verdict", line + "."));
    if (side.other !== null) box.append(make("small", "", "In the other order: " + verdict(side.other) + "."));
    const raw = make("details");
    raw.append(make("summary", "", "All it wrote"));
    raw.addEventListener("toggle", () => {
      if (raw.open && raw.children.length === 1) raw.append(make("pre", "", side.response));
    });
    box.append(raw);
    return box;
  };

  const drawCard = (card) => {
    const box = make("article", "panel card");
    box.tabIndex = -1;
    const pictures = make("div", "pictures");
    for (const index of card.pictures) {
      const image = make("img");
      image.alt = "picture of this pair";
      image.addEventListener("load", () => {
        if (Math.max(image.naturalWidth, image.naturalHeight) < 200) image.classList.add("small");
      });
      image.src = data.pictures[index];
      pictures.append(image);
    }
    if (!card.pictures.length) pictures.append(make("p", "gone", card.gone || "No picture is named."));
    const body = make("div", "body");
    body.append(make("p", "head", [card.category, "pair " + card.pair_id, ({ 0: "as listed", 1: "swapped" })[card.order] || card.order]
      .filter(Boolean).join(" · ")));
    body.append(make("div", "text question long", card.question));
    const pair = make("div", "pair");
    // A rollout's prompt holds both responses already.
    const shown = card.response_1 === "" && card.response_2 === "" ? [] : [["1", card.response_1], ["2", card.response_2]];
    for (const [number, text] of shown) {
      const chosen = card.ground_truth === number;
      const answer = make("section", "answer" + (chosen ? " label" : ""));
      const head = make("h4", "", "Response " + number);
      if (chosen) head.append(make("span", "chip label", "the label"));
      if (card.ground_truth === "tie" && number === "2") head.append(make("span", "chip label", "the label is a tie"));
      answer.append(head, make("div", "text long", text));
      pair.append(answer);
    }
    const sides = make("div", "sides");
    const rollout = "rollouts" in card.sides;
    for (const name of names.filter((name) => (name === "rollouts") === rollout)) sides.append(drawSide(name, card.sides[name], card.ground_truth));
    body.append(pair, sides);
    box.append(pictures, body);
    return box;
  };

  const draw = () => {
    const start = state.page * data.at_a_time;
    const some = state.found.slice(start, start + data.at_a_time);
    place.replaceChildren(...some.map(drawCard));
    if (!some.length) place.append(make("p", "none", "No judgement fits."));
    document.getElementById("shown").textContent = some.length
      ? `${start + 1} to ${start + some.length} of ${state.found.length}` : "none";
    for (const below of ["", "-below"]) {
      document.getElementById("previous" + below).disabled = state.page === 0;
      document.getElementById("next" + below).disabled = start + data.at_a_time >= state.found.length;
    }
  };

  const update = () => {
    const name = sideSelect.value;
    const words = search.value.toLowerCase().trim();
    const judged = data.cards.filter((card) => card.sides[name] && (!words || haystack(card).includes(words)));
    const alone = name === first || name === "rollouts";
    const rare = { learned: alone, lost: alone, unanswered: !data.cards.some(failed(name)) };
    const shown = Object.keys(is).filter((key) => !rare[key]);
    if (!shown.includes(state.filter)) state.filter = "all";
    const focused = buttons.contains(document.activeElement);
    buttons.replaceChildren(...shown.map((key) => {
      const button = make("button", "", key[0].toUpperCase() + key.slice(1));
      button.type = "button";
      button.dataset.filter = key;
      button.append(make("b", "", String(judged.filter((card) => is[key](card, card.sides[name])).length)));
      button.setAttribute("aria-pressed", String(key === state.filter));
      if (titles[key]) button.title = titles[key];
      button.addEventListener("click", () => { state.filter = key; update(); });
      return button;
    }));
    if (focused) buttons.querySelector("[aria-pressed=true]").focus();
    state.found = sorted(judged.filter((card) => is[state.filter](card, card.sides[name])), name);
    state.page = 0;
    draw();
  };

  const turn = (pages) => {
    const last = Math.max(0, Math.ceil(state.found.length / data.at_a_time) - 1);
    const page = Math.max(0, Math.min(last, state.page + pages));
    if (page === state.page) return;
    state.page = page;
    draw();
    document.getElementById("shown").scrollIntoView({ block: "center" });
  };
  const step = (cards) => {
    const all = [...place.querySelectorAll(".card")];
    const now = all.indexOf(document.activeElement.closest(".card"));
    const next = all[now < 0 ? 0 : now + cards];
    if (next) next.focus();
  };

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 150); });
  sideSelect.addEventListener("change", update);
  sortSelect.addEventListener("change", update);
  for (const below of ["", "-below"]) {
    document.getElementById("previous" + below).addEventListener("click", () => turn(-1));
    document.getElementById("next" + below).addEventListener("click", () => turn(1));
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const action = { j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1), "/": () => search.focus() };
    if (!action[event.key]) return;
    event.preventDefault();
    action[event.key]();
  });
  update();
})();
