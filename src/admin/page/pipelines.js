// The table of pipelines. Only so many rows are made as somebody wants to see: with
// thousands of pipelines those in trouble stand first, and the filter finds the others.

import { element, KeyedList, setAttribute, setHidden, setText } from "./dom.js";
import { pipelineKey } from "./findings.js";
import { count, duration, rate } from "./format.js";
import { draw, sparkline } from "./rates.js";

/** Rows that are shown at first, and with every wish for more. */
const STEP = 100;

/** Below every count: what is shown as "-" because this node does not know it. */
const UNKNOWN = -1;

const ORDERS = {
  name: (one) => pipelineKey(one),
  tenant: (one) => one.tenant,
  stream: (one) => one.stream,
  state: (one) => one.state,
  lag: (one) => (counts(one) ? one.lag_rows : UNKNOWN),
  oldest: (one) => (counts(one) ? one.lag_oldest_seconds : UNKNOWN),
  rate: (one, rates) => rates.now(pipelineKey(one)),
  letters: (one) => (counts(one) ? one.dead_letters_open : UNKNOWN),
  owner: (one) => owner(one, ""),
};

/** Orders in which the most comes first. */
const MOST_FIRST = new Set(["lag", "oldest", "rate", "letters"]);

export function owner(pipeline, node) {
  if (pipeline.owner) return pipeline.owner;
  return pipeline.epoch === null ? "" : node;
}

/** Whether this node counts what waits: only who holds a pipeline does. */
export const counts = (pipeline) => pipeline.epoch !== null;

export class Pipelines {
  constructor(filter, changed) {
    this.filter = filter;
    this.shown = STEP;
    this.body = document.getElementById("pipeline-rows");
    this.more = document.getElementById("more-pipelines");
    this.nothing = document.getElementById("no-pipelines");
    this.matching = document.getElementById("matching");
    this.heads = [...document.querySelectorAll("#pipeline-table th")];
    this.rows = new KeyedList(this.body, pipelineKey, makeRow, (row, one) => this.update(row, one));
    for (const head of this.heads) {
      const button = head.firstElementChild;
      button.addEventListener("click", () => filter.set(nextOrder(button.dataset.sort, filter.value)));
    }
    this.more.addEventListener("click", () => {
      this.shown += STEP;
      changed();
    });
  }

  show(status, severities, rates) {
    Object.assign(this, { node: status.node, severities, rates });
    const severity = (one) => severities.get(pipelineKey(one)) ?? 0;
    const wanted = status.pipelines.filter((one) => this.filter.wants(one, severity(one)));
    const { sort, descending } = this.filter.value;
    const order = ORDERS[sort] ?? severity;
    const keys = new Map(wanted.map((one) => [one, order(one, rates)]));
    const turn = sort in ORDERS && !descending ? 1 : -1;
    // What the order calls equal stays in the order of names, as it came.
    wanted.sort((one, other) => turn * compare(keys.get(one), keys.get(other)));
    this.showOrder(sort, descending);
    this.rows.show(wanted.slice(0, this.shown));
    const all = status.pipelines.length;
    const hidden = wanted.length - Math.min(wanted.length, this.shown);
    setHidden(this.more, hidden === 0);
    setText(this.more, `Show ${count(Math.min(STEP, hidden))} more of ${count(hidden)}`);
    setHidden(this.nothing, wanted.length > 0);
    setText(this.nothing, all > 0
      ? "No pipeline fits the filter."
      : "No pipelines yet: tide.relay_set_outbox(...) or [[pipelines]] in the configuration defines one.");
    setText(this.matching, wanted.length === all ? "" : `${count(wanted.length)} of ${count(all)} pipelines`);
  }

  showOrder(sort, descending) {
    for (const head of this.heads) {
      const isIt = head.firstElementChild.dataset.sort === sort;
      setAttribute(head, "aria-sort", isIt ? (descending ? "descending" : "ascending") : "none");
    }
  }

  update(row, one) {
    const key = pipelineKey(one);
    const rates = this.rates.of(key);
    setAttribute(row.node, "data-severity", String(this.severities.get(key) ?? 0));
    setText(row.name, key);
    setText(row.outbox, `outbox ${one.outbox}`);
    setText(row.tenant, one.tenant);
    setText(row.stream, one.stream);
    // Of one that was deleted its troubles are nobody's any more.
    const state = one.leaving ? "leaving" : one.state;
    setText(row.state, state);
    setAttribute(row.state, "data-state", state);
    const why = reason(one);
    setHidden(row.reason, !why);
    setText(row.reason, why);
    setText(row.lag, counts(one) ? (one.lag_at_least ? "over " : "") + count(one.lag_rows) : "-");
    setText(row.oldest, counts(one) && one.lag_rows > 0 ? duration(one.lag_oldest_seconds) : "-");
    setText(row.rate, counts(one) ? rate(rates.at(-1) ?? 0) : "-");
    draw(row.spark, rates, this.rates.points);
    setText(row.letters, counts(one) && one.dead_letters_open > 0 ? count(one.dead_letters_open) : "-");
    const who = owner(one, this.node);
    setText(row.owner, who || "nobody");
    setText(row.epoch, one.epoch === null ? "" : `epoch ${one.epoch}`);
  }
}

/** What is to be said beside the state. */
function reason(one) {
  if (one.leaving) return "it was deleted or disabled, and finishes what it has read";
  const told = [];
  if (one.row_id !== undefined) told.push(`row ${one.row_id}:`);
  if (one.reason) told.push(one.reason);
  if (one.replay) told.push(`replay ${one.replay.replay} ${one.replay.state}: row ${one.replay.next_id} of ${one.replay.to_id}`);
  if (one.waits?.stalled) told.push(`stalled: ${one.waits.stalled}`);
  return told.join(" ");
}

function makeRow() {
  const row = {
    name: element("span", { class: "name" }),
    outbox: element("span", { class: "under" }),
    tenant: element("td", { class: "word" }),
    stream: element("td", { class: "word" }),
    state: element("span", { class: "state" }),
    reason: element("span", { class: "reason" }),
    lag: element("td", { class: "number" }),
    oldest: element("td", { class: "number" }),
    rate: element("span", { class: "rate" }),
    spark: sparkline(),
    letters: element("td", { class: "number" }),
    owner: element("span"),
    epoch: element("span", { class: "under" }),
  };
  row.node = element("tr", {},
    element("th", { scope: "row", class: "word" }, row.name, row.outbox), row.tenant, row.stream,
    element("td", { class: "why" }, row.state, row.reason), row.lag, row.oldest,
    element("td", { class: "number rates" }, row.spark.svg, row.rate), row.letters,
    element("td", { class: "owner" }, row.owner, row.epoch));
  return row;
}

function compare(one, other) {
  if (typeof one === "string") return one.localeCompare(other);
  return one - other;
}

/** First the usual way of a column, then the other, then trouble first again. */
function nextOrder(column, { sort, descending }) {
  const usual = MOST_FIRST.has(column);
  if (sort !== column) return { sort: column, descending: usual };
  if (descending === usual) return { sort: column, descending: !usual };
  return { sort: "", descending: false };
}
