// The list of judgements. Text of models and data sets is JSON and is inserted with textContent, never as markup. Only
// the judgements in view are in the document, and only their images are decoded.
(() => {
  const find = (id) => document.getElementById(id);
  if (!find("cards")) return;
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const block = find("card-data");
  const data = JSON.parse(block.textContent);
  block.remove();  // frees the memory of its text

  const place = find("cards");
  const sideSelect = find("side");
  const sortSelect = find("sort");
  const search = find("search");
  const buttons = find("filters");
  const clear = find("clear");
  const state = { kind: "all", page: 0, found: [], words: "" };
  const peersOf = (name) => data.peers.find((group) => group.includes(name)) || [name];
  let first = "";

  // --- kinds and facets ---
  const kinds = ["wrong", "inconsistent", "unparsed", "unanswered", "right"];
  const before = (card) => card.sides[first] && card.sides[first].kind;
  const is = {
    all: () => true,
    wrong: (card, side) => side.kind === "wrong",
    inconsistent: (card, side) => side.flips === true,
    unparsed: (card, side) => side.kind === "unparsed",
    unanswered: (card, side) => side.kind === "unanswered",
    right: (card, side) => side.kind === "right",
    learned: (card, side) => side.kind === "right" && before(card) && before(card) !== "right",
    lost: (card, side) => (side.kind === "wrong" || side.kind === "unparsed") && before(card) === "right",
  };
  const titles = {
    learned: () => "Right here but not in " + first,
    lost: () => "Right in " + first + " but not here",
    inconsistent: () => "The verdicts of the two orders contradict each other",
  };
  const orders = { 0: "as listed", 1: "swapped" };
  const labels = { 1: "first", 2: "second", tie: "a tie" };
  // Each facet: a judgement's value, the name of a value, and whether values are sorted by name rather than by count.
  const facets = {
    category: { of: (card) => card.category, call: (value) => value || "none" },
    order: { of: (card) => card.order, call: (value) => orders[value] || value || "unknown", sorted: true },
    label: { of: (card) => card.ground_truth, call: (value) => labels[value] || value || "none", sorted: true },
    reason: { of: (card, side) => side.reason, call: (value) => value || "none" },
  };
  for (const [key, facet] of Object.entries(facets)) {
    facet.select = find(key);
    facet.select.addEventListener("change", () => update());
  }
  const chosen = (facet) => (facet.select.value === "any" ? null : facet.select.value.slice(1));
  const fits = (card, side, leave) => Object.entries(facets).every(([key, facet]) => {
    const value = chosen(facet);
    return key === leave || value === null || facet.of(card, side) === value;
  });

  // Texts that judgements share are searched once.
  let lower = null;
  const textsWith = (words) => {
    lower ??= data.texts.map((text) => text.toLowerCase());
    return lower.map((text) => text.includes(words));
  };
  const holds = (card, words, hits) => [card.question, card.response_1, card.response_2].some((number) => hits[number])
    || Object.values(card.sides).some((side) => hits[side.response] || side.reason.toLowerCase().includes(words))
    || card.pair_id.toLowerCase().includes(words) || card.category.toLowerCase().includes(words);

  // The first kind that fits, so that every card is in one heap.
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

  // --- one judgement ---
  const fill = (element, text) => {
    const words = state.words;
    const low = words ? text.toLowerCase() : "";
    // If lower case changes the length, positions do not carry over.
    if (!words || low.length !== text.length) { element.textContent = text; return element; }
    let from = 0;
    for (let marks = 0; marks < 100; marks += 1) {
      const at = low.indexOf(words, from);
      if (at < 0) break;
      element.append(text.slice(from, at), make("mark", "", text.slice(at, at + words.length)));
      from = at + words.length;
    }
    element.append(text.slice(from));
    return element;
  };
  const written = (name, text) => fill(make("div", "text " + name), text);
  const thoughts = (text) => {
    const open = text.indexOf("<think>");
    const rest = open < 0 ? text : text.slice(open + 7);
    const close = rest.indexOf("</think>");
    return open < 0 && close < 0 ? "" : (close < 0 ? rest : rest.slice(0, close)).trim();
  };
  const verdict = (text) => ({ "": "none", tie: "a tie", 1: "response 1", 2: "response 2" })[text] ?? text;
  const marks = { right: "✓ right", wrong: "✗ wrong", unparsed: "? unparsed", unanswered: "– unanswered" };

  const drawSide = (name, side, truth, chosenSide) => {
    const box = make("section", "side" + (chosenSide ? " chosen" : ""));
    const head = make("h4");
    head.append(make("span", "name", name));
    if (!side) {
      head.append(make("span", "", "not judged"));
      box.append(head);
      return box;
    }
    head.append(make("span", "chip " + side.kind, marks[side.kind]));
    if (side.flips) head.append(make("span", "chip flips", "⇄ flips"));
    box.append(head);
    if (side.kind === "unanswered") {
      box.append(make("p", "verdict", "The request failed; this judgement is in no metric."));
      return box;
    }
    const line = "Verdict: " + verdict(side.verdict) + (side.kind === "wrong" ? ", the label is " + verdict(truth) : "")
      + (side.kind === "unparsed" && side.reason ? " (" + side.reason + ")" : "");
    box.append(make("p", "verdict", line + "."));
    if (side.other !== null) box.append(make("small", "", "In the other order: " + verdict(side.other) + "."));
    const all = data.texts[side.response];
    const thought = thoughts(all);
    if (!thought) {
      box.append(written("thought long", all));
      return box;
    }
    box.append(written("thought long", thought));
    const raw = make("details");
    raw.append(make("summary", "", "Full response"));
    raw.addEventListener("toggle", () => {
      if (raw.open && raw.children.length === 1) raw.append(fill(make("pre"), all));
    });
    box.append(raw);
    return box;
  };

  const drawImage = (index) => {
    const button = make("button", "image");
    button.type = "button";
    button.title = "Enlarge or shrink";
    button.setAttribute("aria-expanded", "false");
    const image = make("img");
    image.alt = "Image of this pair";
    image.addEventListener("load", () => {
      const small = Math.max(image.naturalWidth, image.naturalHeight) < 200;
      if (small) image.classList.add("small");
      else image.closest(".card").classList.add("photo");
    });
    image.src = find("image-" + index).textContent;
    button.append(image);
    button.addEventListener("click", () => {
      const large = button.closest(".card").classList.toggle("large");
      for (const other of button.parentElement.children) other.setAttribute("aria-expanded", String(large));
    });
    return button;
  };

  const drawCard = (card) => {
    const name = sideSelect.value;
    const box = make("article", "panel card " + card.sides[name].kind);
    box.tabIndex = -1;
    const images = make("div", "images");
    images.append(...card.images.map(drawImage));
    if (!card.images.length) images.append(make("p", "gone", card.gone || "This judgement names no image."));
    const body = make("div", "body");
    body.append(make("p", "head", [card.category, orders[card.order] || card.order, "pair " + card.pair_id]
      .filter(Boolean).join(" · ")));
    body.append(written("question long", data.texts[card.question]));
    const pair = make("div", "pair");
    // A rollout's prompt contains both responses.
    const responses = [["1", data.texts[card.response_1]], ["2", data.texts[card.response_2]]];
    for (const [number, text] of responses.every(([, text]) => text === "") ? [] : responses) {
      const label = card.ground_truth === number;
      const answer = make("section", "answer" + (label ? " label" : ""));
      const head = make("h4", "", "Response " + number);
      if (label) head.append(make("span", "chip label", "the label"));
      if (card.ground_truth === "tie" && number === "2") head.append(make("span", "chip label", "the label is a tie"));
      answer.append(head, written("long", text));
      pair.append(answer);
    }
    const sides = make("div", "sides");
    for (const peer of peersOf(name)) sides.append(drawSide(peer, card.sides[peer], card.ground_truth, peer === name));
    body.append(pair, sides);
    box.append(images, body);
    return box;
  };

  const draw = () => {
    const start = state.page * data.at_a_time;
    const some = state.found.slice(start, start + data.at_a_time);
    place.replaceChildren(...some.map(drawCard));
    if (!some.length) place.append(make("p", "none", "No judgement fits these filters."));
    find("shown").textContent = some.length
      ? `${start + 1} to ${start + some.length} of ${state.found.length}` : "none";
    for (const below of ["", "-below"]) {
      find("previous" + below).disabled = state.page === 0;
      find("next" + below).disabled = start + data.at_a_time >= state.found.length;
    }
  };

  // --- filters and their counts ---
  const drawKinds = (cards, name) => {
    const alone = name === first;
    const rare = {
      learned: alone, lost: alone, unanswered: !data.cards.some((card) => card.sides[name]?.kind === "unanswered"),
    };
    const shown = Object.keys(is).filter((key) => !rare[key]);
    if (!shown.includes(state.kind)) state.kind = "all";
    const at = [...buttons.children].indexOf(document.activeElement);
    const focused = at >= 0 ? document.activeElement.dataset.filter : null;
    buttons.replaceChildren(...shown.map((key) => {
      const button = make("button", "", key[0].toUpperCase() + key.slice(1));
      button.type = "button";
      button.dataset.filter = key;
      button.append(make("b", "", String(cards.filter((card) => is[key](card, card.sides[name])).length)));
      button.setAttribute("aria-pressed", String(key === state.kind));
      if (titles[key]) button.title = titles[key]();
      button.addEventListener("click", () => { state.kind = key; update(); });
      return button;
    }));
    if (focused) (buttons.querySelector(`[data-filter=${focused}]`) || buttons.firstChild).focus();
  };
  const drawFacet = (key, facet, all, name) => {
    const count = (cards) => {
      const counts = new Map();
      for (const card of cards) {
        const value = facet.of(card, card.sides[name]);
        counts.set(value, (counts.get(value) || 0) + 1);
      }
      return counts;
    };
    const known = count(all);
    const now = count(all.filter((card) => fits(card, card.sides[name], key) && is[state.kind](card, card.sides[name])
      && state.match(card)));
    const kept = chosen(facet);
    const values = [...known.keys()].sort((a, b) => (facet.sorted ? 0 : known.get(b) - known.get(a)) || (a < b ? -1 : 1));
    const option = (value, text, selected) => {
      const made = make("option", "", text);
      made.value = value;
      made.selected = selected;
      return made;
    };
    // Values may be any text: a prefix distinguishes them from "any".
    facet.select.replaceChildren(option("any", "any", kept === null || !known.has(kept)), ...values.map((value) => option(
      "=" + value, `${facet.call(value)} (${now.get(value) || 0})`, value === kept)));
    facet.select.closest("label").hidden = values.length < 2;
    facet.select.classList.toggle("set", chosen(facet) !== null);
  };

  const update = () => {
    const name = sideSelect.value;
    first = peersOf(name)[0];
    state.words = search.value.toLowerCase().trim();
    const hits = state.words ? textsWith(state.words) : null;
    const matching = new Set(hits ? data.cards.filter((card) => holds(card, state.words, hits)) : []);
    state.match = hits ? (card) => matching.has(card) : () => true;
    const all = data.cards.filter((card) => card.sides[name]);
    // A value that this judge does not have does not filter.
    for (const facet of Object.values(facets)) {
      const value = chosen(facet);
      if (value !== null && !all.some((card) => facet.of(card, card.sides[name]) === value)) facet.select.value = "any";
    }
    drawKinds(all.filter((card) => state.match(card) && fits(card, card.sides[name], "")), name);
    for (const [key, facet] of Object.entries(facets)) drawFacet(key, facet, all, name);
    state.found = sorted(all.filter((card) => state.match(card) && fits(card, card.sides[name], "")
      && is[state.kind](card, card.sides[name])), name);
    state.page = 0;
    clear.hidden = !state.words && state.kind === "all" && Object.values(facets).every((facet) => chosen(facet) === null);
    draw();
  };
  const reset = () => {
    search.value = "";
    state.kind = "all";
    for (const facet of Object.values(facets)) facet.select.value = "any";
  };

  // --- navigation ---
  const turn = (pages) => {
    const last = Math.max(0, Math.ceil(state.found.length / data.at_a_time) - 1);
    const page = Math.max(0, Math.min(last, state.page + pages));
    if (page === state.page) return;
    state.page = page;
    draw();
    find("shown").scrollIntoView({ block: "center" });
  };
  const step = (cards) => {
    const all = [...place.querySelectorAll(".card")];
    const now = all.indexOf(document.activeElement.closest(".card"));
    const next = all[now < 0 ? 0 : now + cards];
    if (next) next.focus();
  };

  let waiting = 0;
  search.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(update, 120); });
  sideSelect.addEventListener("change", update);
  sortSelect.addEventListener("change", update);
  clear.addEventListener("click", () => { reset(); update(); search.focus(); });
  for (const below of ["", "-below"]) {
    find("previous" + below).addEventListener("click", () => turn(-1));
    find("next" + below).addEventListener("click", () => turn(1));
  }
  buttons.addEventListener("keydown", (event) => {
    const move = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const all = [...buttons.children];
    const next = move && all[all.indexOf(document.activeElement) + move];
    if (next) { next.focus(); event.preventDefault(); }
  });
  // A bar of "Where it fails" shows its judgements.
  for (const bar of document.querySelectorAll("button.share")) {
    bar.addEventListener("click", () => {
      reset();
      sideSelect.value = bar.dataset.side;
      sortSelect.value = "problems";
      update();
      if (bar.dataset.facet) {
        facets[bar.dataset.facet].select.value = "=" + bar.dataset.value;
        update();
      }
      find("judgements").scrollIntoView();
      find("filters").firstChild.focus({ preventScroll: true });
    });
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName)) return;
    const action = {
      j: () => step(1), k: () => step(-1), n: () => turn(1), p: () => turn(-1),
      x: () => { reset(); update(); }, "/": () => search.focus(),
    }[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  update();
})();
