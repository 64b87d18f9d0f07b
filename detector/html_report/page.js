"use strict";
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);
  const list = byId("images");
  const items = [...list.children];
  const controls = byId("controls");
  const viewer = byId("viewer");
  const chosen = { verdict: "", category: "", defect: "", name: "" };
  const byNumber = (name, sign) => (a, b) => sign * (a.dataset[name] - b.dataset[name]) || a.dataset.number - b.dataset.number;
  const orders = {
    worst: byNumber("number", 1),
    high: byNumber("score", -1),
    low: byNumber("score", 1),
    name: (a, b) => a.dataset.name.localeCompare(b.dataset.name, undefined, { numeric: true }) || a.dataset.number - b.dataset.number,
  };
  root.classList.add("js");
  controls.hidden = false;

  // What is shown
  const isWanted = ({ dataset }) =>
    (!chosen.verdict || dataset.verdict === chosen.verdict) &&
    (!chosen.category || dataset.category === chosen.category) &&
    (!chosen.defect || dataset.defect === chosen.defect) &&
    (!chosen.name || dataset.name.toLowerCase().includes(chosen.name));
  const shown = () => [...list.children].filter((item) => !item.hidden);
  const filter = () => {
    let count = 0;
    for (const item of items) {
      item.hidden = !isWanted(item);
      count += !item.hidden;
    }
    byId("none").hidden = count > 0;
    byId("status").textContent = `${count} of ${items.length} images`;
  };
  const verdicts = [...controls.querySelectorAll("[data-verdict]")];
  for (const button of verdicts) {
    button.addEventListener("click", () => {
      chosen.verdict = button.dataset.verdict;
      for (const other of verdicts) other.setAttribute("aria-pressed", String(other === button));
      filter();
    });
  }
  for (const name of ["category", "defect"]) {
    byId(name)?.addEventListener("change", (event) => {
      chosen[name] = event.target.value;
      filter();
    });
  }
  byId("search").addEventListener("input", (event) => {
    chosen.name = event.target.value.trim().toLowerCase();
    filter();
  });
  byId("sort").addEventListener("change", (event) => {
    list.append(...[...items].sort(orders[event.target.value]));
  });

  // What lies over the images; the same buttons stand in the single view
  const layers = [...document.querySelectorAll("[data-layer]")];
  const toggle = (name) => {
    const isOn = root.classList.toggle(`show-${name}`);
    for (const button of layers) {
      if (button.dataset.layer === name) button.setAttribute("aria-pressed", String(isOn));
    }
  };
  for (const button of layers) button.addEventListener("click", () => toggle(button.dataset.layer));

  // The single view
  let current = null;
  const show = (item) => {
    current = item;
    byId("viewer-name").textContent = item.dataset.name;
    byId("viewer-picture").replaceChildren(item.querySelector(".layers").cloneNode(true));
    byId("viewer-caption").replaceChildren(item.querySelector(".caption").cloneNode(true));
    const all = shown();
    const place = all.indexOf(item);
    byId("viewer-place").textContent = `${place + 1} of ${all.length}`;
    byId("before").disabled = place <= 0;
    byId("after").disabled = place >= all.length - 1;
  };
  const step = (by) => {
    const all = shown();
    const next = all[all.indexOf(current) + by];
    if (next) show(next);
  };
  list.addEventListener("click", (event) => {
    const button = event.target.closest(".open");
    if (!button) return;
    show(button.closest(".item"));
    viewer.showModal();
  });
  byId("close").addEventListener("click", () => viewer.close());
  byId("before").addEventListener("click", () => step(-1));
  byId("after").addEventListener("click", () => step(1));
  viewer.addEventListener("click", (event) => {
    if (event.target === viewer) viewer.close();
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const does = {
      ArrowLeft: () => step(-1),
      ArrowRight: () => step(1),
      h: () => toggle("heat"),
      g: () => toggle("truth"),
    }[event.key];
    if (!does) return;
    event.preventDefault();
    does();
  });
  // Back to where the eye was, not to where the view was opened.
  viewer.addEventListener("close", () => current?.querySelector(".open").focus());

  // On paper everything is open
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const one of opened) one.open = true;
  });
  addEventListener("afterprint", () => {
    for (const one of opened) one.open = false;
    opened = [];
  });
  filter();
})();
