// The streams, and how full each of their shards is.

import { element, KeyedList, setAttribute, setHidden, setText } from "./dom.js";
import { NEAR_BUDGET, streamTitle, troubleOf, used, usedBytes, usedRecords } from "./findings.js";
import { count, counted, duration, percent } from "./format.js";

/** Shards of a stream that are shown at first: the fullest. */
const STEP = 32;
/** A wait of this many seconds is said to be long. */
const LONG_SECONDS = 60;

export class Streams {
  constructor(filter, changed) {
    this.filter = filter;
    this.changed = changed;
    this.nothing = document.getElementById("no-streams");
    this.list = new KeyedList(document.getElementById("stream-list"), (stream) => stream.key,
      (stream) => this.make(stream), (part, stream) => this.update(part, stream));
  }

  show(status) {
    this.users = new Map();
    const { tenant } = this.filter.value;
    for (const one of status.pipelines) {
      if (tenant && one.tenant !== tenant) continue;
      this.users.set(one.stream_key, (this.users.get(one.stream_key) ?? 0) + 1);
    }
    const wanted = status.streams.filter((stream) => stream.name && (!tenant || this.users.has(stream.key)));
    const full = (stream) => Math.max(0, ...stream.shards.map(used));
    const badness = (stream) => (troubleOf(stream) ? 2 : 0) + (full(stream) > NEAR_BUDGET ? 1 : 0);
    wanted.sort((one, other) => badness(other) - badness(one));
    this.titles = new Map(wanted.map((stream) => [stream.key, streamTitle(status, stream)]));
    this.list.show(wanted);
    setHidden(this.nothing, wanted.length > 0);
    setText(this.nothing, status.streams.length > 0 ? "No stream of this tenant." : "No stream is in use.");
  }

  make(stream) {
    const part = {
      most: STEP,
      title: element("h3"),
      status: element("span", { class: "state" }),
      about: element("span", { class: "about" }),
      problem: element("p", { class: "problem" }),
      caption: element("caption"),
      body: element("tbody"),
      more: element("button", { type: "button" }),
    };
    const heads = ["Shard", "Records", "Bytes", "Budget in use", "Rows queued", "Waits for"];
    const head = element("tr", {}, ...heads.map((text) =>
      element("th", { scope: "col", class: text === "Rows queued" || text === "Budget in use" ? "number" : null }, text)));
    part.table = element("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Shards of stream ${this.titles.get(stream.key)}` },
      element("table", { class: "shards" }, part.caption, element("thead", {}, head), part.body));
    part.node = element("article", { class: "stream" },
      element("header", {}, part.title, part.status, part.about), part.problem, part.table, element("p", {}, part.more));
    part.rows = new KeyedList(part.body, (shard) => shard.id, makeShard, updateShard);
    part.more.addEventListener("click", () => {
      part.most = Infinity;
      this.changed();
    });
    return part;
  }

  update(part, stream) {
    const { shards } = stream;
    const trouble = troubleOf(stream);
    const title = this.titles.get(stream.key);
    setText(part.title, title);
    setText(part.status, trouble ? "in trouble" : (stream.status || "not known yet").toLowerCase());
    setAttribute(part.status, "data-state", trouble ? "failed" : stream.status === "ACTIVE" ? "running" : "waiting");
    const queued = shards.reduce((sum, one) => sum + one.queued_rows, 0);
    setText(part.about, [counted(this.users.get(stream.key) ?? 0, "pipeline"), counted(shards.length, "shard"),
      `${counted(queued, "row")} queued`].join(", "));
    const told = [trouble, stream.advice].filter(Boolean).join(" ");
    setHidden(part.problem, !told);
    setText(part.problem, told);
    setHidden(part.table, shards.length === 0);
    const isCut = shards.length > part.most;
    const shown = isCut ? [...shards].sort((one, other) => used(other) - used(one)).slice(0, part.most) : shards;
    part.rows.show(shown);
    setText(part.caption, isCut
      ? `The ${part.most} fullest of ${count(shards.length)} shards of ${title}`
      : `Shards of ${title}, by hash keys`);
    setHidden(part.more, !isCut);
    setText(part.more, `Show all ${count(shards.length)} shards`);
  }
}

function bar() {
  const fill = element("span", { class: "fill" });
  const text = element("span", { class: "part" });
  const cell = element("td", { class: "heat" }, element("span", { class: "bar", "aria-hidden": "true" }, fill), text);
  return { cell, fill, text };
}

function showBar({ cell, fill, text }, part) {
  setText(text, percent(part));
  const width = `${Math.min(100, Math.round(part * 100))}%`;
  if (fill.style.width !== width) fill.style.width = width;
  setAttribute(cell, "data-heat", part > NEAR_BUDGET ? "full" : part > 0.6 ? "warm" : "cool");
}

function makeShard() {
  const shard = {
    id: element("th", { scope: "row", class: "word" }),
    records: bar(),
    bytes: bar(),
    factor: element("td", { class: "number" }),
    queued: element("td", { class: "number" }),
    waits: element("td", { class: "why" }),
  };
  shard.node = element("tr", {}, shard.id, shard.records.cell, shard.bytes.cell, shard.factor, shard.queued, shard.waits);
  return shard;
}

function updateShard(row, shard) {
  setText(row.id, shard.id);
  showBar(row.records, usedRecords(shard));
  showBar(row.bytes, usedBytes(shard));
  // Below 100 % the service has throttled, and the relay has slowed down.
  const share = Math.min(shard.records_share, shard.bytes_share);
  setText(row.factor, percent(shard.budget_factor) + (share < 0.995 ? `, ${percent(share)} of it here` : ""));
  setText(row.queued, count(shard.queued_rows));
  setText(row.waits, waiting(shard));
}

/** What it waits for; for how long, when that is long and the shard took nothing meanwhile:
    calls follow each other all the time. */
function waiting(shard) {
  const { problem, waits } = shard;
  if (problem) return problem;
  if (waits?.stalled) return `nobody: ${waits.stalled}`;
  if (!waits || waits.waits_for === "work") return "-";
  const name = waits.waits_for.replaceAll("_", " ");
  return waits.seconds < LONG_SECONDS || used(shard) > 0 ? name : `${name}, for ${duration(waits.seconds)}`;
}
