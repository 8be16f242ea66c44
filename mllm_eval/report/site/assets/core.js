"use strict";
// Data files, elements, numbers, light and dark: what every page needs. Nothing here writes html from text.
const MLLM = (() => {
  const KEPT = 400; // data files held in memory
  const waiting = new Map(), held = new Map();

  // Called by the data files: JSON, deflated, in base64.
  function take(name, text) {
    const bytes = Uint8Array.from(atob(text), (sign) => sign.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate-raw"));
    const found = waiting.get(name);
    if (found) new Response(stream).json().then(found.resolve, found.reject);
  }

  function load(name) {
    if (!held.has(name)) {
      held.set(name, new Promise((resolve, reject) => {
        waiting.set(name, { resolve, reject });
        const script = document.createElement("script");
        script.src = `data/${name}.js`;
        script.onload = () => script.remove();
        script.onerror = () => { held.delete(name); reject(new Error(`data/${name}.js is missing: make the report again`)); };
        document.head.append(script);
      }));
      if (held.size > KEPT) held.delete([...held.keys()].find((key) => key.includes("-")) ?? "");
    } else { // most recently used last
      const found = held.get(name);
      held.delete(name);
      held.set(name, found);
    }
    return held.get(name);
  }

  // el("td", {class: "num", onclick: f}, "text", other) with text as text.
  function el(tag, about = {}, ...children) {
    const made = tag.startsWith("svg:") ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
    for (const [key, value] of Object.entries(about)) {
      if (value === null || value === undefined || value === false) continue;
      if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return made;
  }

  const dash = "–";
  const number = (value, digits = 1) => value === null || value === undefined ? dash : value.toFixed(digits).replace(/^-(0\.?0*)$/, "$1").replace("-", "−");
  const signed = (value, digits = 1) => value === null ? dash : (value >= 0 ? "+" : "") + number(value, digits);
  const p = (value) => value === null ? dash : value < 0.001 ? "< 0.001" : value.toFixed(3);
  const count = (value) => value.toLocaleString("en");

  function theme() {
    const button = document.getElementById("theme");
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const now = () => document.documentElement.dataset.theme ?? (dark.matches ? "dark" : "light");
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = now() === "dark" ? "light" : "dark";
      document.documentElement.dataset.theme = next;
      try { localStorage.setItem("mllm-eval-theme", next); } catch { /* a file may have no storage */ }
    });
  }
  // What is wider than its frame says so: on a phone nothing else tells that there is more.
  function scrolls() {
    for (const frame of document.querySelectorAll(".scroll, .plot, [role=tablist]")) {
      const look = () => frame.classList.toggle("more", frame.scrollLeft + frame.clientWidth < frame.scrollWidth - 2);
      const watch = new ResizeObserver(look);
      for (const one of [frame, ...frame.children]) watch.observe(one);
      frame.addEventListener("scroll", look, { passive: true });
    }
  }
  try {
    const kept = localStorage.getItem("mllm-eval-theme");
    if (kept === "dark" || kept === "light") document.documentElement.dataset.theme = kept;
  } catch { /* as above */ }
  addEventListener("DOMContentLoaded", theme);
  addEventListener("DOMContentLoaded", scrolls);
  return { take, load, el, number, signed, p, count, dash };
})();
