"use strict";
// The explorer of episodes. What models and tools wrote is hostile: it enters the page as text nodes only.
(() => {
  const byId = (id) => document.getElementById(id);
  const { runs, episodes } = JSON.parse(byId("data").textContent);
  const list = byId("list");
  let visible = [];
  let chosen = null;

  /** An element; strings among the children become text nodes. */
  function make(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children.filter((child) => child !== null && child !== ""));
    return node;
  }

  // --- list and filters

  const outcome = (episode) => (episode.success ? "success" : "failure");
  const rewardOf = (episode) => (episode.reward === null ? "" : `reward ${Number(episode.reward.toFixed(3))}`);
  const titleOf = (episode) => [
    episode.kind === "prediction" ? "prediction" : `step ${episode.step ?? "?"}`,
    make("span", { class: outcome(episode) }, outcome(episode)),
    rewardOf(episode),
  ];

  function joined(parts) {
    const shown = parts.filter((part) => part !== "");
    return shown.flatMap((part, i) => (i ? [" \u00b7 ", part] : [part]));
  }

  const items = episodes.map((episode, i) => {
    const item = make("li", { role: "option", id: `episode-${i}`, "aria-selected": "false" },
      make("div", {}, ...joined(titleOf(episode))), make("div", {}, episode.request));
    item.addEventListener("click", () => choose(i));
    return item;
  });
  list.append(...items);

  const found = new Map(); // role -> its texts, in lower case; made when they are first searched

  function textsOf(role) {
    const steps = (key) => (episode) => episode.steps.map((step) => step[key] ?? "").join("\n");
    const of = { request: (e) => e.request, planner: (e) => e.plan, executor: steps("output"), feedback: steps("feedback") };
    if (!found.has(role)) found.set(role, episodes.map((episode) => of[role](episode).toLowerCase()));
    return found.get(role);
  }

  for (const name of [...new Set(episodes.flatMap((episode) => episode.tools))].sort()) {
    byId("tool").append(make("option", { value: name }, name));
  }
  runs.forEach((name, i) => byId("run").append(make("option", { value: String(i) }, name)));
  byId("run-label").hidden = runs.length < 2;
  byId("kind-label").hidden = new Set(episodes.map((episode) => episode.kind)).size < 2;

  function filter() {
    const value = (id) => byId(id).value;
    const words = value("text").toLowerCase();
    const least = value("least") === "" ? null : Number(value("least"));
    const most = value("most") === "" ? null : Number(value("most"));
    const where = value("where") ? [value("where")] : ["request", "planner", "executor", "feedback"];
    const fits = (episode, i) =>
      (value("run") === "" || episode.run === Number(value("run"))) &&
      (value("kind") === "" || episode.kind === value("kind")) &&
      (value("outcome") === "" || outcome(episode) === value("outcome")) &&
      (value("tool") === "" || episode.tools.includes(value("tool"))) &&
      (least === null || (episode.reward !== null && episode.reward >= least)) &&
      (most === null || (episode.reward !== null && episode.reward <= most)) &&
      (words === "" || where.some((role) => textsOf(role)[i].includes(words)));
    visible = [];
    episodes.forEach((episode, i) => {
      const fit = fits(episode, i);
      items[i].hidden = !fit;
      if (fit) visible.push(i);
    });
    byId("count").textContent = `${visible.length} of ${episodes.length} episodes`;
    choose(visible.includes(chosen) ? chosen : visible[0] ?? null);
  }

  function choose(i) {
    if (chosen !== null) items[chosen].setAttribute("aria-selected", "false");
    chosen = i;
    if (i === null) {
      list.removeAttribute("aria-activedescendant");
      byId("episode").replaceChildren("No episode fits.");
      return;
    }
    items[i].setAttribute("aria-selected", "true");
    list.setAttribute("aria-activedescendant", items[i].id);
    const top = items[i].offsetTop - list.offsetTop; // scrollIntoView would move the page too
    if (top < list.scrollTop) list.scrollTop = top;
    const bottom = top + items[i].offsetHeight - list.clientHeight;
    if (bottom > list.scrollTop) list.scrollTop = bottom;
    show(episodes[i]);
  }

  list.addEventListener("keydown", (event) => {
    const at = visible.indexOf(chosen);
    const last = visible.length - 1;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + 10, PageUp: at - 10, Home: 0, End: last }[event.key];
    if (to === undefined || at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    choose(visible[Math.min(Math.max(to, 0), last)]);
  });
  byId("filters").addEventListener("input", filter);
  byId("filters").addEventListener("reset", () => setTimeout(filter));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());

  // --- one episode

  const mark = (text) => make("span", { class: "mark" }, text);

  function callOf(call) {
    const parameters = (call.parameters ?? []).map((parameter) => {
      const line = make("li", {}, parameter.value === undefined ? parameter.name : `${parameter.name}: ${parameter.value}`);
      if (parameter.mark === "wrong") line.append(" ", mark(`wrong value, gold: ${parameter.gold}`));
      if (parameter.mark === "missing") line.append(" ", mark(`missing, gold: ${parameter.gold}`));
      if (parameter.mark === "surplus") line.append(" ", mark("surplus"));
      return line;
    });
    const name = make("div", {}, make("b", {}, call.name ?? "no tool"), call.mark ? " " : "", call.mark ? mark(`${call.mark} call`) : "");
    return make("div", { class: "call" }, name, parameters.length ? make("ul", {}, ...parameters) : "");
  }

  function rowOf(episode, i) {
    const step = episode.steps[i];
    const planned = episode.planned[i];
    const cell = (label, ...children) => make("td", { "data-label": label }, ...children);
    if (!step) return make("tr", {}, cell("Plan", `${i + 1}. `, callOf(planned)), cell("Call", "not carried out"), cell("Feedback"));
    let call = make("div", {}, mark("unreadable output"), make("pre", {}, step.output));
    if (step.call) call = callOf(step.call);
    else if (step.answer !== null) call = make("div", {}, "Answer: ", make("span", { class: "text" }, step.answer));
    return make("tr", {},
      cell("Plan", make("div", { class: "text" }, `${i + 1}. ${step.task}`), planned ? callOf(planned) : ""),
      cell("Call", call),
      cell("Feedback", step.error ? mark(`error: ${step.error}`) : "", make("pre", {}, step.feedback ?? "")));
  }

  function show(episode) {
    const parts = [make("h3", {}, ...joined(titleOf(episode)))];
    const source = [`task ${episode.id}`];
    if (runs.length > 1) source.unshift(`run ${runs[episode.run]}`);
    parts.push(make("div", { class: "hint text" }, source.join(", ")));
    parts.push(make("h4", {}, "Request"), make("div", { class: "text" }, episode.request));
    if (episode.plan_error !== null) {
      parts.push(make("h4", {}, "Plan"), mark(`unreadable: ${episode.plan_error}`), make("pre", {}, episode.plan));
    }
    const rows = Math.max(episode.steps.length, episode.planned.length);
    if (rows) {
      const head = make("tr", {}, ...["Plan", "Call", "Feedback"].map((name) => make("th", { scope: "col" }, name)));
      const body = Array.from({ length: rows }, (_, i) => rowOf(episode, i));
      parts.push(make("h4", {}, "Plan, calls and feedback"));
      parts.push(make("table", { class: "steps" }, make("thead", {}, head), make("tbody", {}, ...body)));
    }
    parts.push(make("h4", {}, "Gold calls"), ...(episode.gold.length ? episode.gold.map(callOf) : ["none"]));
    const raw = [episode.plan, ...episode.steps.map((step) => step.output)].filter((text) => text).join("\n\n");
    parts.push(make("details", {}, make("summary", {}, "What planner and executor wrote"), make("pre", {}, raw)));
    byId("episode").replaceChildren(...parts);
  }

  filter();
})();
