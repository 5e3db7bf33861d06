// The dashboard's own script: copying, one sending per form, ticking lists, charts. Every page works without it where it can.
"use strict";

(() => {
  const each = (root, selector, act) => {
    for (const node of root.querySelectorAll(selector)) act(node);
  };

  // ── copying ──
  const spoken = document.createElement("p");
  spoken.className = "unseen";
  spoken.setAttribute("aria-live", "polite");
  document.body.append(spoken);
  const showCopyButtons = (root) => each(root, "[data-copy]", (button) => { button.hidden = false; });
  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.getElementById(button.dataset.copy);
    const text = "value" in source ? source.value : source.textContent;
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Plain http has no clipboard: select it, and let the old command copy.
      const range = document.createRange();
      range.selectNodeContents(source);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      document.execCommand("copy");
    }
    button.textContent = "Copied";
    // Who does not see it is told.
    spoken.textContent = "";
    spoken.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  });

  // ── a link takes a text along to the next page of this tab, and nowhere else: <a data-keep="id"> ──
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-keep]");
    if (link) sessionStorage.setItem("playground.key", document.getElementById(link.dataset.keep).textContent);
  });

  // ── a form is sent once; the server knows, too ──
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method !== "post") return;
    if (form.dataset.sent) {
      event.preventDefault();
      return;
    }
    form.dataset.sent = "yes";
    setTimeout(() => { each(form, "button[type=submit]", (button) => { button.disabled = true; }); }, 0);
  });
  // Coming back with the browser's own button shows the page as it was left.
  addEventListener("pageshow", (event) => {
    if (!event.persisted) return;
    each(document, "form[data-sent]", (form) => {
      delete form.dataset.sent;
      each(form, "button[type=submit]", (button) => { button.disabled = false; });
    });
  });

  // ── printing: <button data-print> ──
  const showPrintButtons = (root) => each(root, "[data-print]", (button) => { button.hidden = false; });
  document.addEventListener("click", (event) => { if (event.target.closest("[data-print]")) print(); });

  // ── asking before what cannot be undone: <button data-ask="…"> ──
  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-ask]");
    if (button && !confirm(button.dataset.ask)) event.preventDefault();
  }, true);

  // ── lists of things to tick: <fieldset data-pick> with [data-search], [data-all], [data-none], labels ──
  const startPicking = (root) => each(root, "[data-pick]", (list) => {
    const search = list.querySelector("[data-search]");
    const items = [...list.querySelectorAll("[data-item]")];
    const visible = () => items.filter((item) => !item.hidden).map((item) => item.querySelector("input[type=checkbox]"));
    const tools = list.querySelector("[data-tools]");
    if (tools) tools.hidden = false;
    search?.addEventListener("input", () => {
      const wanted = search.value.trim().toLowerCase();
      for (const item of items) item.hidden = !item.textContent.toLowerCase().includes(wanted);
    });
    search?.addEventListener("keydown", (event) => { if (event.key === "Enter") event.preventDefault(); });
    list.querySelector("[data-all]")?.addEventListener("click", () => { for (const box of visible()) box.checked = true; });
    list.querySelector("[data-none]")?.addEventListener("click", () => { for (const box of visible()) box.checked = false; });
  });

  // ── charts: stacked bars of days, from data-chart ──
  const COLOURS = ["#6366f1", "#0d9488", "#d97706", "#db2777", "#0284c7", "#65a30d", "#9333ea", "#64748b"];
  const dayText = (seconds) => new Date(seconds * 1000).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
  const drawn = new Map();
  const draw = (place) => {
    const data = JSON.parse(place.dataset.chart);
    const names = data.series.map((one) => one.name);
    const sums = data.x.map(() => 0);
    // Each bar is drawn from zero to the sum so far, the tallest first, so that they look stacked.
    const stacked = data.series.map((one) => one.values.map((value, i) => (sums[i] += Number(value))));
    const { color: text, borderTopColor: line } = getComputedStyle(place);
    const axis = { stroke: text, grid: { stroke: line, width: 1 }, ticks: { stroke: line }, font: "12px system-ui" };
    const order = names.map((_, i) => i).reverse();
    const options = {
      width: place.clientWidth,
      height: place.clientHeight,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { y: false, drag: { x: false, y: false }, points: { show: false } },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"),
      scales: { x: { time: true, range: (_, low, high) => [low - 43200, high + 43200] }, y: { range: (_, low, high) => [0, high > 0 ? high * 1.08 : 1] } },
      axes: [
        { ...axis, size: 30, grid: { show: false }, values: (_, moments) => moments.map(dayText) },
        // As wide as its longest number, so that the chart begins where its title does.
        { ...axis, size: (_, texts) => 16 + 7.5 * Math.max(1, ...(texts || []).map((text) => text.length)) },
      ],
      series: [{}, ...order.map((i) => ({
        label: names[i], fill: COLOURS[i % COLOURS.length], width: 0, points: { show: false },
        paths: uPlot.paths.bars({ size: [0.72, 40], align: 0 }),
      }))],
      hooks: { setCursor: [(plot) => show(plot.cursor.idx)] },
    };
    place.replaceChildren();
    const legend = place.nextElementSibling;
    const show = (index) => {
      const parts = names.map((name, i) => {
        const part = document.createElement("span");
        const swatch = document.createElement("i");
        swatch.style.background = COLOURS[i % COLOURS.length];
        part.append(swatch, index == null ? name : `${name}: ${data.series[i].values[index]} ${data.unit}`);
        return part;
      });
      if (index != null) {
        const day = document.createElement("strong");
        day.textContent = new Date(data.x[index] * 1000).toISOString().slice(0, 10);
        parts.unshift(day);
      }
      legend.replaceChildren(...parts);
    };
    drawn.get(place)?.destroy();
    drawn.set(place, new uPlot(options, [data.x, ...order.map((i) => stacked[i])], place));
    show(null);
  };
  const drawCharts = (root) => {
    if (!window.uPlot) return;
    for (const [place, plot] of drawn) {
      if (place.isConnected) continue;
      plot.destroy();
      drawn.delete(place);
    }
    each(root, "[data-chart]", draw);
  };
  addEventListener("resize", () => {
    for (const [place, plot] of drawn) plot.setSize({ width: place.clientWidth, height: place.clientHeight });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => drawCharts(document));

  // ── light or dark, for those who choose: <select data-theme-choice> ──
  const startTheme = (root) => each(root, "[data-theme-choice]", (choice) => {
    choice.value = document.documentElement.dataset.theme || "";
    choice.closest("[hidden]")?.removeAttribute("hidden");
    choice.addEventListener("change", () => {
      document.cookie = `theme=${choice.value}; path=/; samesite=lax; max-age=${choice.value ? 31536000 : 0}`;
      if (choice.value) document.documentElement.dataset.theme = choice.value;
      else delete document.documentElement.dataset.theme;
      drawCharts(document);
    });
  });

  // What is asked for again and again rests while nobody looks.
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden && event.target.matches("[data-live]")) event.preventDefault();
  });

  const start = (root) => {
    showCopyButtons(root);
    showPrintButtons(root);
    startPicking(root);
    startTheme(root);
    drawCharts(root);
  };
  start(document);
  document.addEventListener("htmx:load", (event) => { if (event.target !== document.body) start(event.target); });
})();
