"use strict";
// Which samples a filter keeps, and how one is shown. The index has a sign a sample; texts come in pages.
MLLM.samples = (() => {
  const { el, load, number } = MLLM;
  const PAGE = 250; // samples in a data file
  const score = (sign) => sign === "." || sign === "-" ? null : (sign.charCodeAt(0) & 31) - 1;
  const unparsed = (sign) => sign >= "a" && sign <= "k";
  const right = (sign) => score(sign) === 10;

  // Each takes the signs of A and B under the chosen rules, and those under all rules.
  const SHOW = {
    all: { title: "everything", keep: () => true },
    a: { title: "A higher than B", two: true, keep: (a, b) => score(a) !== null && score(b) !== null && score(a) > score(b) },
    b: { title: "B higher than A", two: true, keep: (a, b) => score(a) !== null && score(b) !== null && score(b) > score(a) },
    right: { title: "right", keep: (a, b) => right(a) && (b === null || right(b)) },
    wrong: { title: "not right", keep: (a, b) => score(a) !== null && !right(a) && (b === null || (score(b) !== null && !right(b))) },
    failed: { title: "failed", keep: (a, b) => a === "-" || b === "-" },
    unparsed: { title: "unparsed", keep: (a, b) => unparsed(a) || (b !== null && unparsed(b)) },
    rules: { title: "rule sets disagree", keep: (a, b, every) => every.some((signs) => new Set(signs.map((s) => s.toUpperCase())).size > 1) },
  };

  async function matches(benchmarks, state) {
    const found = [];
    for (const benchmark of benchmarks) {
      const { codes } = await load(benchmark.key);
      const mine = [state.a, state.b].filter((key) => key && codes[key]);
      if (!codes[state.a]) continue;
      const of = (key) => codes[key]?.[state.rules] ?? Object.values(codes[key])[0];
      const first = of(state.a), second = state.b && codes[state.b] ? of(state.b) : null;
      const every = mine.map((key) => Object.values(codes[key]));
      const { keep, two } = SHOW[state.show];
      if (two && !second) continue;
      for (let i = 0; i < benchmark.n; i++) {
        if (keep(first[i], second ? second[i] : null, every.map((signs) => signs.map((one) => one[i])))) found.push([benchmark, i]);
      }
    }
    return found;
  }

  const page = ([benchmark, i]) => load(`${benchmark.key}-${String(Math.floor(i / PAGE)).padStart(3, "0")}`);

  // A line of scores: 0 stands for that of the first rule set, true for the answer as what was read from it.
  function scored(data, key, rules, i) {
    const own = data.scores[key] ?? {}, first = Object.values(own)[0];
    const at = (own[rules] ?? first)?.[i], line = at === 0 ? first[i] : at;
    return line && line[1] === true ? [line[0], data.answers[key][i], ...line.slice(2)] : line;
  }

  function text(answer) {
    return answer === null || answer === undefined ? "" : typeof answer === "string" ? answer : answer.failed;
  }

  const file = ([benchmark, i]) => `${benchmark.key}-${Math.floor(i / PAGE)}`;

  // What is searched of a data file, in small letters: made once, for A and B when they are asked for.
  function lower(data, key) {
    data.lower ??= {};
    return data.lower[key] ??= key === "" ? data.ids.map((id, i) => [id, data.questions[i], data.gold[i]].join("\n").toLowerCase())
      : (data.answers[key] ?? []).map((answer) => text(answer).toLowerCase());
  }

  // Whether a sample of the file `data` holds all words, over question, gold and the answers of A and B.
  function holds(item, data, words, state) {
    const i = item[1] % PAGE, own = ["", state.a, state.b].map((key) => key === null || key === undefined ? "" : lower(data, key)[i] ?? "");
    return words.every((word) => own.some((part) => part.includes(word)));
  }

  // The text as nodes, with the words that were searched marked.
  function marked(string, words) {
    if (!words.length) return [string];
    const lower = string.toLowerCase(), nodes = [];
    if (lower.length !== string.length) return [string];
    let at = 0;
    while (at < string.length) {
      const hits = words.map((word) => [lower.indexOf(word, at), word]).filter(([place]) => place >= 0).sort((x, y) => x[0] - y[0]);
      if (!hits.length) break;
      const [place, word] = hits[0];
      nodes.push(string.slice(at, place), el("mark", {}, string.slice(place, place + word.length)));
      at = place + word.length;
    }
    return [...nodes, string.slice(at)];
  }

  // Lines such as "A. yes" are options; the one that the gold answer names is marked.
  function question(string, gold, words) {
    const lines = string.split("\n"), options = [];
    while (lines.length && /^[A-Z][.)] /.test(lines.at(-1))) options.unshift(lines.pop());
    const isGold = (line) => gold === line[0] || gold === line.slice(3) || gold === `(${line[0]})`;
    return [
      el("p", { class: "question" }, ...marked(lines.join("\n"), words)),
      options.length ? el("ul", { class: "options" }, ...options.map((line) => el("li", { class: isGold(line) ? "gold" : null }, ...marked(line, words)))) : null,
    ];
  }

  function mark(line) {
    if (!line) return el("span", { class: "score part" }, MLLM.dash);
    const value = line[0];
    if (value === null) return el("span", { class: "score failed" }, (line[2] ?? "").startsWith("failed") ? "failed" : "not scored");
    if (value === 1) return el("span", { class: "score right" }, "✓ 1");
    return value === 0 ? el("span", { class: "score wrong" }, "✗ 0") : el("span", { class: "score part" }, number(value, 2));
  }

  function reply(answer, words) {
    if (answer === null || answer === undefined) return el("span", { class: "said empty" }, "no answer kept");
    if (typeof answer !== "string") return el("span", { class: "failed" }, `no answer: ${answer.failed}`);
    return answer.trim() === "" ? el("span", { class: "said empty" }, "(empty)") : el("span", { class: "said" }, ...marked(answer, words));
  }

  function picture(names, alt) {
    if (!names.length) return el("div", { class: "picture none" }, "no image");
    return el("div", { class: "picture" }, ...names.map((name) => el("img", { src: `thumbs/${name}`, alt, loading: "lazy", decoding: "async" })));
  }

  function tags(line) {
    return line && line[0] !== null && line[1] === undefined || line && line[0] !== null && line[1] === null ? el("span", { class: "tag" }, "unparsed") : null;
  }

  // One sample of the list.
  function row(item, data, state, runs, words, open) {
    const [benchmark, index] = item, i = index % PAGE, gold = data.gold[i];
    const replies = el("dl", { class: "replies" });
    replies.append(el("dt", {}, "gold"), el("dd", {}, el("span", { class: "said" }, gold || MLLM.dash)));
    for (const key of [state.a, state.b]) {
      const run = runs.get(key);
      if (!run || !data.answers[key]) continue;
      const line = scored(data, key, state.rules, i);
      replies.append(el("dt", {}, el("i", { class: `hue${run.hue}` }), run.label), el("dd", {}, mark(line), reply(data.answers[key][i], words), tags(line)));
    }
    const [asked, options] = question(data.questions[i] || "question not here", gold, words);
    return el("li", {}, picture(data.images[i], `Image of question ${data.ids[i]}`), el("div", {},
      el("div", { class: "what" }, el("button", { type: "button", onclick: () => open(item) }, `${benchmark.title} · ${data.ids[i]}`)),
      asked, options, replies));
  }

  // Everything that is known of a sample.
  function whole(item, data, state, runs, rules) {
    const [benchmark, index] = item, i = index % PAGE, gold = data.gold[i];
    const [asked, options] = question(data.questions[i] || "question not here", gold, []);
    const keys = [state.a, state.b, ...runs.keys()].filter((key, place, all) => key && data.answers[key] && all.indexOf(key) === place);
    const body = el("tbody");
    for (const key of keys) {
      const run = runs.get(key);
      const cells = rules.map((name) => {
        const line = data.scores[key]?.[name] && scored(data, key, name, i);
        const read = line && line[0] !== null ? line[1] === undefined || line[1] === null ? "nothing read" : `read “${line[1]}”` : null;
        return el("td", {}, mark(line), read ? el("small", {}, read) : null, line?.[2] ? el("small", {}, line[2]) : null);
      });
      body.append(el("tr", {}, el("th", { scope: "row" }, el("i", { class: `hue${run.hue}` }), run.label), el("td", { class: "said" }, reply(data.answers[key][i], [])), ...cells));
    }
    const head = el("thead", {}, el("tr", {}, ...["", "Answer", ...rules].map((name) => el("th", { scope: "col" }, name))));
    const meta = [`id ${data.ids[i]}`, data.groups[i] ? `scored with group ${data.groups[i]}` : null, data.clusters[i] ? `cluster ${data.clusters[i]}` : null];
    return el("div", { class: "inside" }, picture(data.images[i], `Image of question ${data.ids[i]}`),
      el("div", {}, asked, options, benchmark.suffix ? el("p", { class: "suffix" }, benchmark.suffix) : null, el("p", {}, "Gold: ", el("b", {}, gold || MLLM.dash))),
      el("div", { class: "answers scroll", tabindex: "0", role: "region", "aria-label": "Answers" }, el("table", {}, head, body)),
      el("p", { class: "meta" }, meta.filter(Boolean).join(" · ")));
  }

  return { SHOW, matches, page, file, holds, row, whole };
})();
