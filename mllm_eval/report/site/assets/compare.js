"use strict";
// The compare page: two runs, their paired differences, and the samples that a filter keeps.
addEventListener("DOMContentLoaded", async () => {
  const { el, load, number, signed, p, count } = MLLM, { SHOW, matches, page, file, holds, row, whole } = MLLM.samples;
  const $ = (id) => document.getElementById(id), SIZE = 20;
  const said = $("said");
  let data;
  try { data = await load("compare"); } catch (error) { said.textContent = error.message; return; }
  const runs = new Map(data.runs.map((run) => [run.key, run]));
  const first = { a: data.runs[0].key, b: data.runs[1]?.key ?? "", benchmark: "", show: "all", rules: data.rules[0], q: "", page: 0 };
  const state = { ...first, ...fromHash() };
  let found = [], at = -1, round = 0;

  function fromHash() {
    const given = Object.fromEntries(new URLSearchParams(location.hash.slice(1)));
    const kept = {};
    for (const key of ["a", "b"]) if (runs.has(given[key])) kept[key] = given[key];
    if (Object.hasOwn(SHOW, given.show ?? "")) kept.show = given.show;
    if (data.rules.includes(given.rules)) kept.rules = given.rules;
    if (data.benchmarks.some((one) => one.name === given.benchmark) || Object.hasOwn(data.categories, given.benchmark ?? "")) kept.benchmark = given.benchmark;
    if (given.q) kept.q = given.q;
    if (Number(given.page) > 1) kept.page = Math.floor(Number(given.page)) - 1;
    return kept;
  }

  function toHash() {
    const short = { a: state.a, b: state.b, benchmark: state.benchmark, show: state.show === "all" ? "" : state.show, rules: state.rules === data.rules[0] ? "" : state.rules, q: state.q, page: state.page ? state.page + 1 : "" };
    const hash = "#" + new URLSearchParams(Object.entries(short).filter(([, value]) => value !== ""));
    try { history.replaceState(null, "", hash); } catch { /* a page from a file may not: the address stays as it is */ }
  }

  // --- the pair ---
  function pairOf(a, b) {
    const there = data.pairs[`${a}|${b}`];
    if (there) return there.map(([key, value, low, high, raw, holm, onlyA, onlyB, mc]) => ({ key, value, low, high, raw, holm, onlyA, onlyB, mc }));
    const back = data.pairs[`${b}|${a}`];
    return back?.map(([key, value, low, high, raw, holm, onlyA, onlyB, mc]) => ({ key, value: -value, low: high === null ? null : -high, high: low === null ? null : -low, raw, holm, onlyA: onlyB, onlyB: onlyA, mc }));
  }

  function differences() {
    const a = runs.get(state.a), b = runs.get(state.b), pair = b && a !== b ? pairOf(state.a, state.b) : null;
    $("differences").hidden = !pair;
    $("heading").textContent = b && a !== b ? `${a.label} against ${b.label}` : a.label;
    if (!pair) {
      said.textContent = b && a !== b ? "These two were not tested against each other: a run is tested against other runs, and against itself without images." : "Choose another run as B to compare.";
      return;
    }
    // Where no category was measured whole by both, the benchmarks are spoken of.
    const means = pair.filter((one) => data.means.includes(one.key)), spoken = means.length ? means : pair;
    const clear = spoken.filter((one) => one.holm !== null && one.holm < data.alpha);
    const name = (one) => `${data.titles[one.key]} (${signed(one.value)} [${number(one.low)}, ${number(one.high)}])`;
    const more = clear.filter((one) => one.value > 0).map(name), less = clear.filter((one) => one.value < 0).map(name);
    const parts = [more.length ? `${a.label} is higher on ${more.join(", ")}` : "", less.length ? `${b.label} is higher on ${less.join(", ")}` : ""].filter(Boolean);
    said.textContent = parts.length ? `${parts.join("; ")}; p < ${data.alpha} after correction. Elsewhere the difference could be chance.` : `No ${means.length ? "category" : "benchmark"} separates the two at p < ${data.alpha} after correction.`;
    forest(pair, a, b);
  }

  function forest(pair, a, b) {
    const scale = (key) => data.scale[key] ?? 1;
    const reach = Math.max(1, ...pair.flatMap((one) => [one.low, one.high, one.value].filter((x) => x !== null).map((x) => Math.abs(x * scale(one.key))))) * 1.06;
    const place = (x) => `${(50 + 50 * x / reach).toFixed(2)}%`;
    const step = [1, 2, 5, 10, 20, 50].find((one) => reach / one <= 2.6) ?? 50;
    const ticks = [-2, -1, 0, 1, 2].map((i) => i * step).filter((x) => Math.abs(x) <= reach);
    const lines = () => ticks.map((x) => el("svg:line", { x1: place(x), x2: place(x), y1: "-25%", y2: "125%", stroke: x ? "var(--line)" : "var(--soft)", "stroke-width": 1 }));
    const head = el("svg:svg", { "aria-hidden": "true" }, ...ticks.map((x) => { const made = el("svg:text", { x: place(x), y: "95%", "text-anchor": "middle" }); made.textContent = signed(x, 0).replace("+0", "0"); return made; }));
    const dot = (run) => el("i", { class: `hue${run.hue}` });
    const heads = el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Benchmark"), el("th", { scope: "col", class: "num val" }, dot(a), a.label), el("th", { scope: "col", class: "num val" }, dot(b), b.label),
      el("th", { scope: "col", class: "plotcell" }, el("span", { class: "plotname" }, head)), el("th", { scope: "col", class: "num" }, "Difference"), el("th", { scope: "col", class: "num" }, "p"),
      el("th", { scope: "col", class: "num" }, "A higher"), el("th", { scope: "col", class: "num" }, "B higher")));
    const body = el("tbody"), category = new Map(data.benchmarks.map((one) => [one.name, one.category]));
    const order = [...data.means, ...data.benchmarks.map((one) => one.name)];
    let group = null;
    for (const one of order.map((key) => pair.find((other) => other.key === key)).filter(Boolean)) {
      const mean = data.means.includes(one.key), own = mean ? null : category.get(one.key) || "other";
      if (own && own !== group) body.append(el("tr", { class: "group" }, el("th", { colspan: 8, scope: "rowgroup" }, data.categories[own] ?? "Other")));
      group = own;
      const sure = one.holm !== null && one.holm < data.alpha, hue = `var(--hue${(one.value >= 0 ? a : b).hue})`, k = scale(one.key);
      const plot = el("svg:svg", { role: "img", "aria-label": one.low === null ? signed(one.value) : `${signed(one.value)} [${number(one.low)}, ${number(one.high)}]` }, ...lines(),
        one.low === null ? null : el("svg:line", { x1: place(one.low * k), x2: place(one.high * k), y1: "50%", y2: "50%", stroke: hue, "stroke-width": 2 }),
        el("svg:circle", { cx: place(one.value * k), cy: "50%", r: mean ? 5.5 : 4.5, fill: sure ? hue : "var(--page)", stroke: hue, "stroke-width": 1.8 }));
      const button = (many, show) => many === null ? MLLM.dash : el("button", { type: "button", "aria-label": `${many} questions on ${data.titles[one.key]} that ${show === "a" ? a.label : b.label} scores higher`, onclick: () => jump(one.key, show) }, count(many));
      body.append(el("tr", { class: mean ? "mean" : null }, el("th", { scope: "row" }, data.titles[one.key] ?? one.key),
        ...[a, b].map((run) => el("td", { class: "num val" }, number(run.values[one.key]?.[0]))), el("td", { class: "plotcell" }, plot),
        el("td", { class: "num" }, signed(one.value), one.low === null ? null : el("small", {}, `[${number(one.low)}, ${number(one.high)}]`)), el("td", { class: "num" }, p(one.holm)),
        el("td", { class: "num" }, mean ? "" : button(one.onlyA, "a")), el("td", { class: "num" }, mean ? "" : button(one.onlyB, "b"))));
    }
    $("forest").replaceChildren(el("caption", {}, "Paired differences"), heads, body);
  }

  function jump(benchmark, show) {
    Object.assign(state, { benchmark, show, q: "", page: 0 });
    controls();
    refresh();
    $("samples").scrollIntoView();
    $("benchmark").focus({ preventScroll: true });
  }

  // --- the samples ---
  function chosen() {
    return data.benchmarks.filter((one) => !state.benchmark || one.name === state.benchmark || one.category === state.benchmark);
  }

  const AHEAD = 250;

  async function refresh() {
    const mine = ++round, words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    toHash();
    try {
      let kept = await matches(chosen(), state);
      if (mine !== round) return;
      if (words.length) {
        const all = kept;
        kept = [];
        let at = null, texts = null;
        for (let i = 0; i < all.length; i++) {
          if (file(all[i]) !== at) {
            // The next files come while this one is read.
            for (let k = 1; k <= 4; k++) if (i + k * AHEAD < all.length) page(all[i + k * AHEAD]).catch(() => {});
            at = file(all[i]);
            texts = await page(all[i]);
            if (mine !== round) return;
          }
          if (holds(all[i], texts, words, state)) kept.push(all[i]);
          if (i % 2000 === 1999) {
            $("count").textContent = `${count(kept.length)} found, ${count(i + 1)} of ${count(all.length)} searched …`;
            await new Promise((resolve) => setTimeout(resolve));
            if (mine !== round) return;
          }
        }
      }
      found = kept;
      const total = chosen().reduce((sum, one) => sum + one.n, 0);
      $("count").textContent = `${count(found.length)} of ${count(total)} questions.`;
      state.page = Math.max(0, Math.min(state.page, Math.ceil(found.length / SIZE) - 1));
      await list(mine, words);
    } catch (error) { $("count").textContent = error.message; }
  }

  async function list(mine, words) {
    const part = found.slice(state.page * SIZE, (state.page + 1) * SIZE), pages = await Promise.all(part.map(page));
    if (mine !== round) return;
    $("list").replaceChildren(...part.map((item, i) => row(item, pages[i], state, runs, words, (one) => open(found.indexOf(one)))));
    const last = Math.ceil(found.length / SIZE);
    $("pages").hidden = last < 2;
    $("where").textContent = `Page ${state.page + 1} of ${count(last)}`;
    $("previous").disabled = state.page === 0;
    $("next").disabled = state.page >= last - 1;
    toHash();
  }

  async function open(index) {
    if (index < 0 || index >= found.length) return;
    at = index;
    const item = found[at], dialog = $("sample"), own = await page(item);
    const step = (by, name, sign) => el("button", { type: "button", "aria-label": name, disabled: at + by < 0 || at + by >= found.length, onclick: () => open(at + by) }, sign);
    dialog.replaceChildren(
      el("div", { class: "head" }, el("h2", { id: "sample-h" }, `${item[0].title} · ${own.ids[item[1] % 250]}`), step(-1, "Previous question", "←"), step(1, "Next question", "→"),
        el("button", { type: "button", "aria-label": "Close", autofocus: true, onclick: () => dialog.close() }, "Close")),
      whole(item, own, state, runs, data.rules));
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
  }
  $("sample").addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by) { event.preventDefault(); open(at + by); }
  });
  $("sample").addEventListener("click", (event) => { if (event.target === $("sample")) $("sample").close(); });

  // --- the controls ---
  function controls() {
    for (const key of ["a", "b", "benchmark", "show", "rules"]) $(key).value = state[key];
    $("search").value = state.q;
  }
  function turn(by) { state.page += by; list(++round, state.q.toLowerCase().split(/\s+/).filter(Boolean)); $("samples").scrollIntoView(); }

  const option = (value, text) => el("option", { value }, text);
  $("benchmark").append(option("", "all"));
  for (const [key, title] of [...Object.entries(data.categories), ["", "Other"]]) {
    const own = data.benchmarks.filter((one) => one.category === key);
    if (own.length) $("benchmark").append(el("optgroup", { label: title }, key ? option(key, `all of ${title}`) : null, ...own.map((one) => option(one.name, `${one.title} (${count(one.n)})`))));
  }
  $("show").append(...Object.entries(SHOW).map(([key, one]) => option(key, one.title)));
  $("rules").append(...data.rules.map((name) => option(name, name)));
  if (data.runs.length < 2) $("b").append(option("", "none"));
  controls();
  $("pair").hidden = $("filters").hidden = false;
  for (const key of ["a", "b"]) $(key).addEventListener("change", () => { state[key] = $(key).value; state.page = 0; differences(); refresh(); });
  $("swap").addEventListener("click", () => { [state.a, state.b] = [state.b || state.a, state.a]; controls(); differences(); refresh(); });
  for (const key of ["benchmark", "show", "rules"]) $(key).addEventListener("change", () => { state[key] = $(key).value; state.page = 0; refresh(); });
  let timer;
  $("search").addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(() => { state.q = $("search").value.trim(); state.page = 0; refresh(); }, 250); });
  for (const id of ["filters", "pair"]) $(id).addEventListener("submit", (event) => event.preventDefault());
  $("previous").addEventListener("click", () => turn(-1));
  $("next").addEventListener("click", () => turn(1));
  addEventListener("keydown", (event) => {
    if (event.key === "/" && !/INPUT|SELECT|TEXTAREA/.test(document.activeElement.tagName) && !$("sample").open) { event.preventDefault(); $("search").focus(); }
  });
  addEventListener("hashchange", () => { Object.assign(state, first, fromHash()); controls(); differences(); refresh(); });
  differences();
  refresh();
});
