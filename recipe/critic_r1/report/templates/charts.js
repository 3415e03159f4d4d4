"use strict";
// Light and dark, and reading values off the charts.
(() => {
  // --- light and dark ---
  const schemes = ["system", "light", "dark"];
  const schemeButton = document.getElementById("scheme");
  schemeButton.addEventListener("click", () => {
    const now = schemes[(schemes.indexOf(schemeButton.dataset.scheme || "system") + 1) % schemes.length];
    schemeButton.dataset.scheme = now;
    schemeButton.querySelector(".word").textContent = now;
    schemeButton.setAttribute("aria-label", "Colour scheme: " + now);
    document.documentElement.style.colorScheme = now === "system" ? "" : now;
  });

  // --- reading values off a chart ---
  const readouts = JSON.parse(document.getElementById("readouts").textContent);
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
})();
