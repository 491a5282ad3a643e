// Asks the relay how it is every two seconds, and shows it. When it does not answer, the
// page says since when what it shows is old, and asks less and less often.

import { element, KeyedList, setAttribute, setHidden, setProse, setText } from "./dom.js";
import { Events } from "./events.js";
import { Filter } from "./filter.js";
import { ACT, findings, NOTE, pipelineKey, severities, WATCH } from "./findings.js";
import { count, counted, duration, moment, rate } from "./format.js";
import { Nodes } from "./nodes.js";
import { counts, Pipelines } from "./pipelines.js";
import { Rates } from "./rates.js";
import { Streams } from "./streams.js";
import { Tenants } from "./tenants.js";

const EVERY_MS = 2000;
const LONGEST_PAUSE_MS = 30000;
const PATIENCE_MS = 10000;
const RELOAD_PAUSE_MS = 600000;
/** Findings that are shown at once: what is more is no summary. */
const MOST_FINDINGS = 8;

const SEVERITIES = { [ACT]: "act", [WATCH]: "watch", [NOTE]: "note" };
const LABELS = { [ACT]: "Act now", [WATCH]: "Look today", [NOTE]: "Note" };

const get = (id) => document.getElementById(id);

const rates = new Rates();
const filter = new Filter(() => show());
const pipelines = new Pipelines(filter, () => show());
const streams = new Streams(filter, () => show());
const tenants = new Tenants();
const nodes = new Nodes();
const events = new Events();

let status = null;
let answeredAt = null;
let failures = 0;
let timer = null;
let asking = false;

// === The summary ===

const found = new KeyedList(get("findings"), (one) => one.key, () => {
  const part = {
    label: element("strong", { class: "label" }),
    subject: element("strong", { class: "subject" }),
    what: element("span"),
    todo: element("span", { class: "todo" }),
    link: element("a"),
  };
  const said = element("p", {}, part.subject, " ", part.what);
  const help = element("p", {}, part.todo, " ", part.link);
  part.node = element("li", {}, part.label, " ", element("div", {}, said, help));
  return part;
}, (part, one) => {
  setAttribute(part.node, "data-severity", SEVERITIES[one.severity]);
  setText(part.label, LABELS[one.severity]);
  setText(part.subject, one.subject);
  setText(part.what, one.what);
  setProse(part.todo, one.todo);
  setHidden(part.link, !one.runbook);
  setAttribute(part.link, "href", one.runbook && `runbooks/${one.runbook}`);
  setText(part.link, one.runbook ? `Runbook ${one.runbook}` : "");
});

/** What concerns the tenant that is chosen: its own, and what has no tenant. */
function concerns(one) {
  const { tenant } = filter.value;
  return !tenant || one.users.length === 0 || one.users.some((pipeline) => pipeline.tenant === tenant);
}

function headline(wanted) {
  const act = wanted.filter((one) => one.severity === ACT).length;
  const watch = wanted.filter((one) => one.severity === WATCH).length;
  const { tenant } = filter.value;
  const whose = tenant ? ` for tenant ${tenant}` : "";
  if (act > 0 && watch > 0) return `${counted(act, "trouble needs", "troubles need")} somebody now${whose}, ${count(watch)} to look at today`;
  if (act > 0) return `${counted(act, "trouble needs", "troubles need")} somebody now${whose}`;
  if (watch > 0) return `${counted(watch, "thing")} to look at today${whose}`;
  return status.pipelines.length === 0 ? "Nothing is wrong; there are no pipelines yet" : `Nothing is wrong${whose}: rows flow`;
}

function showSummary(all) {
  const wanted = all.filter(concerns);
  setText(get("headline"), headline(wanted));
  setAttribute(get("summary"), "data-severity", SEVERITIES[wanted[0]?.severity] ?? "none");
  found.show(wanted.slice(0, MOST_FINDINGS));
  const more = wanted.length - Math.min(wanted.length, MOST_FINDINGS);
  setHidden(get("more-findings"), more === 0);
  setText(get("more-findings"), `And ${count(more)} more: see below.`);
}

// === Figures ===

const figures = new KeyedList(get("figures"), (one) => one.name, (one) => {
  const part = { value: element("dd") };
  part.node = element("div", {}, element("dt", {}, one.name), part.value);
  return part;
}, (part, one) => setText(part.value, one.value));

function showFigures() {
  const { tenant } = filter.value;
  const mine = status.pipelines.filter((one) => !tenant || one.tenant === tenant);
  const sum = (of) => mine.reduce((all, one) => all + of(one), 0);
  const running = mine.filter((one) => one.state === "running").length;
  const elsewhere = mine.filter((one) => one.state === "standby").length;
  const held = mine.filter(counts);
  const waiting = held.reduce((all, one) => all + one.lag_rows, 0);
  const oldest = Math.max(0, ...held.map((one) => one.lag_oldest_seconds));
  const over = held.some((one) => one.lag_at_least) ? "over " : "";
  figures.show([
    { name: "Pipelines running here", value: `${count(running)} of ${count(mine.length - elsewhere)}` },
    { name: "Rows/s", value: rate(sum((one) => rates.now(pipelineKey(one)))) },
    { name: "Rows waiting", value: over + count(waiting) },
    { name: "Oldest of them", value: duration(oldest) },
    { name: "Dead letters", value: count(sum((one) => one.dead_letters_open)) },
    { name: "Pipelines held elsewhere", value: count(elsewhere) },
  ]);
}

// === All of it ===

function show() {
  if (!status) return;
  const begin = performance.now();
  const all = findings(status);
  filter.offerTenants(status.pipelines.map((one) => one.tenant));
  setText(get("relay"), `Node ${status.node}, version ${status.version}, ${status.phase} ${duration(status.uptime_seconds)} ago`);
  document.title = `${all.some((one) => one.severity === ACT) ? "(!) " : ""}tidegate ${status.node}`;
  showSummary(all);
  showFigures();
  pipelines.show(status, severities(all), rates);
  streams.show(status);
  tenants.show(status, filter, rates);
  nodes.show(status, filter);
  events.show(status, filter);
  performance.measure("show", { start: begin, end: performance.now() });
}

function showFreshness() {
  const isStale = failures > 0;
  document.documentElement.classList.toggle("is-stale", isStale);
  setHidden(get("stale"), !isStale);
  setText(get("asked"), answeredAt === null ? "" : `as of ${moment(answeredAt / 1000)}`);
  if (!isStale) return;
  setText(get("stale"), answeredAt === null
    ? "The relay does not answer. Trying again."
    : `Stale since ${moment(answeredAt / 1000)}: the relay does not answer. What is shown below is old. Trying again.`);
}

// === Asking ===

async function ask(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

/** Not again and again while relays of two releases answer in turns behind one address. */
function reloadOnce() {
  const before = Number(sessionStorage.getItem("reloaded") ?? 0);
  if (Date.now() - before < RELOAD_PAUSE_MS) return;
  sessionStorage.setItem("reloaded", String(Date.now()));
  location.reload();
}

async function poll() {
  if (asking) return;
  asking = true;
  clearTimeout(timer);
  try {
    const [said, history] = await Promise.all([ask("api/status"), ask(rates.path())]);
    // The page of another release may not understand this one.
    if (status && status.version !== said.version) reloadOnce();
    status = said;
    rates.take(history);
    failures = 0;
    answeredAt = Date.now();
    show();
  } catch (error) {
    failures += 1;
    if (!(error instanceof TypeError || error instanceof DOMException)) console.warn(error);
  } finally {
    asking = false;
  }
  showFreshness();
  const pause = Math.min(EVERY_MS * 2 ** Math.min(failures, 10), LONGEST_PAUSE_MS);
  // A page that nobody looks at asks for nothing.
  if (!document.hidden) timer = setTimeout(poll, failures === 0 ? EVERY_MS : pause);
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else poll();
});

get("skip").addEventListener("click", (event) => {
  // The address keeps the filter behind its #.
  event.preventDefault();
  get("pipelines").focus();
  get("pipelines").scrollIntoView();
});

poll();
