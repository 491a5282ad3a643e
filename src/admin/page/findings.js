// What is wrong, how bad it is, and what to do: the summary at the top of the page.
//
// A finding says who is in trouble (`subject`), why (`what`), what to do (`todo`) and which
// runbook says more. What is one trouble is one finding: pipelines of the same state and
// reason, and those that wait for a stream which has a finding of its own.

import { count, counted, duration, names, percent } from "./format.js";

/** Somebody has to act now; to be looked at today; to be known. */
export const ACT = 3;
export const WATCH = 2;
export const NOTE = 1;

/** Rows older than this are late, in seconds: as the alert TidegateOldestRow has it. */
export const OLD_SECONDS = 300;
/** A shard is near its budget above this part of it: as TidegateShardNearBudget has it. */
export const NEAR_BUDGET = 0.9;
/** A supervisor is silent after this many seconds: as /livez has it. */
export const SILENT_SECONDS = 10;
/** More restarts of an actor than this within RESTARTS_SECONDS: as TidegateActorRestarts has it. */
export const MANY_RESTARTS = 3;
export const RESTARTS_SECONDS = 15 * 60;

export const pipelineKey = (pipeline) => `${pipeline.database}/${pipeline.name}`;

const BROKEN = {
  failed: "Do what the reason says; it is tried again by itself.",
  blocked: "Mend the row, or park it; everything behind it waits.",
  invalid: "Set its definition right; nothing of it runs until then.",
};

/** Everything that is to be said of a status, the worst first. */
export function findings(status) {
  const found = [...ofTheRelay(status), ...ofDatabases(status), ...ofStreams(status), ...ofPipelines(status),
    ...ofTenants(status), ...ofShards(status), ...ofRetention(status), ...ofRestarts(status)];
  tellApart(found);
  return found.sort((one, other) => other.severity - one.severity);
}

/** Of one subject there may be several findings of a kind: each is shown. */
function tellApart(found) {
  const times = new Map();
  for (const one of found) {
    const before = times.get(one.key) ?? 0;
    times.set(one.key, before + 1);
    if (before > 0) one.key += ` ${before + 1}`;
  }
}

/** The worst severity found about each pipeline, by its key. */
export function severities(found) {
  const worst = new Map();
  for (const { severity, pipelines } of found) {
    for (const pipeline of pipelines) {
      const key = pipelineKey(pipeline);
      worst.set(key, Math.max(severity, worst.get(key) ?? 0));
    }
  }
  return worst;
}

const sentence = (text) => (/[.!?]$/.test(text) ? text : `${text}.`);

/** `pipelines` are in trouble, `users` are those whom it concerns; without any: all. */
function finding(severity, kind, subject, told, todo, runbook, pipelines = [], users = pipelines) {
  return { severity, key: `${kind} ${subject}`, subject, what: sentence(told), todo, runbook, pipelines, users };
}

/** Its name; where streams of two regions or accounts have the same name, its key. */
export const streamTitle = (status, stream) =>
  (status.streams.some((other) => other !== stream && other.name === stream.name) ? stream.key : stream.name);

const usersOf = (status, stream) => status.pipelines.filter((one) => one.stream_key === stream.key);

const tenantsOf = (pipelines) => [...new Set(pipelines.map((one) => one.tenant).filter(Boolean))].sort();

/** "default/a of tenant acme", "12 pipelines of tenants acme and b: default/a, ...". */
function subjectOf(pipelines) {
  const tenants = tenantsOf(pipelines);
  const whose = tenants.length === 0 ? "" : ` of ${tenants.length === 1 ? "tenant" : "tenants"} ${names(tenants)}`;
  const all = pipelines.map(pipelineKey);
  return all.length === 1
    ? `Pipeline ${all[0]}${whose}`
    : `${counted(all.length, "pipeline")}${whose} (${names(all)})`;
}

function groups(items, key) {
  const grouped = new Map();
  for (const item of items) {
    const of = key(item);
    if (!grouped.has(of)) grouped.set(of, []);
    grouped.get(of).push(item);
  }
  return grouped.values();
}

function* ofTheRelay(status) {
  const silent = status.heartbeat_age_seconds;
  if (silent > SILENT_SECONDS) {
    yield finding(ACT, "silent", `Relay ${status.node}`, `makes no progress: no sign of life for ${duration(silent)}.`,
      "Keep its log and /api/status, then restart it.", "TidegateNoProgress");
  }
  if (status.phase !== "started") {
    const what = status.phase === "draining"
      ? "drains: it finishes what is in flight, then ends." : "is being started.";
    yield finding(NOTE, "phase", `Relay ${status.node}`, what, "", null);
  }
  const reload = status.config.last_reload;
  if (reload && !reload.successful) {
    const errors = reload.errors ?? [];
    const more = errors.length > 1 ? ` (and ${counted(errors.length - 1, "mistake")} more)` : "";
    yield finding(WATCH, "reload", "The last reload", `was refused: ${errors[0] ?? ""}${more}`,
      "The configuration of before is in force. Mend the file and reload again.", "TidegateReloadFailed");
  }
}

function* ofDatabases(status) {
  for (const database of status.databases) {
    if (database.up) continue;
    const waiting = status.pipelines.filter((one) => one.database === database.name && one.state !== "standby");
    yield finding(ACT, "database", `Database ${database.name}`, `is in trouble: ${database.problem ?? "it does not answer"}`,
      `${counted(waiting.length, "pipeline waits", "pipelines wait")} for it and will go on by themselves.`,
      "TidegateDatabaseDown", waiting);
  }
}

const hasTrouble = (stream) => Boolean(stream.problem) || stream.troubles.length > 0;

/** What is said of a stream as a whole. */
export function troubleOf(stream) {
  if (!hasTrouble(stream)) return "";
  const told = stream.troubles.map((trouble) => `${trouble.kind.replaceAll("_", " ")} (${trouble.call}): ${trouble.reason}`);
  return told[0] ?? stream.problem;
}

function* ofStreams(status) {
  for (const stream of status.streams) {
    if (hasTrouble(stream)) {
      const waiting = usersOf(status, stream).filter((one) => one.state === "waiting" && !one.leaving);
      const whose = waiting.length === 0 ? "" : ` ${subjectOf(waiting)} ${waiting.length === 1 ? "waits" : "wait"} for it.`;
      yield finding(ACT, "stream", `Stream ${streamTitle(status, stream)}`, `takes no records: ${sentence(troubleOf(stream))}${whose}`,
        "Mend the stream or the permission; the pipelines go on by themselves.", "TidegateStreamTrouble", waiting,
        usersOf(status, stream));
    }
    if (stream.advice) {
      yield finding(NOTE, "advice", `Stream ${streamTitle(status, stream)}`, `works without a permission: ${stream.advice}`, "", null, [],
        usersOf(status, stream));
    }
  }
}

function* ofPipelines(status) {
  const troubled = new Set(status.streams.filter(hasTrouble).map((stream) => stream.key));
  const down = new Set(status.databases.filter((one) => !one.up).map((one) => one.name));
  const isExplained = (one) => down.has(one.database) || (one.state === "waiting" && troubled.has(one.stream_key));
  const open = status.pipelines.filter((one) => !isExplained(one) && !one.leaving);
  const ofState = (state) => groups(open.filter((one) => one.state === state), (one) => one.reason ?? "");
  for (const [state, todo] of Object.entries(BROKEN)) {
    for (const group of ofState(state)) {
      const row = state === "blocked" ? ` (row ${group[0].row_id})` : "";
      yield finding(ACT, state, subjectOf(group), `${group.length === 1 ? "is" : "are"} ${state}${row}: ${group[0].reason}`,
        todo, "TidegatePipelineFailed", group);
    }
  }
  for (const group of ofState("waiting")) {
    yield finding(ACT, "waiting", subjectOf(group), `${group.length === 1 ? "waits" : "wait"}: ${group[0].reason}`,
      "It goes on by itself when that is over.", "TidegateNoProgress", group);
  }
  for (const group of ofState("paused")) {
    yield finding(NOTE, "paused", subjectOf(group), `${group.length === 1 ? "is" : "are"} paused: ${group[0].reason}`,
      "`tidegate resume` lets it go on.", null, group);
  }
  const late = open.filter((one) => one.lag_oldest_seconds > OLD_SECONDS && one.state === "running");
  for (const group of groups(late, (one) => `${one.tenant}\n${one.stream_key}`)) {
    const oldest = Math.max(...group.map((one) => one.lag_oldest_seconds));
    const rows = group.reduce((sum, one) => sum + one.lag_rows, 0);
    yield finding(WATCH, "late", subjectOf(group),
      `${group.length === 1 ? "is" : "are"} behind: ${counted(rows, "row waits", "rows wait")}, the oldest for ${duration(oldest)}.`,
      whyLate(status, group[0]), "TidegateOldestRow", group);
  }
  const parked = status.pipelines.filter((one) => one.dead_letters_open > 0 && !one.leaving);
  for (const group of groups(parked, (one) => one.tenant)) {
    const letters = group.reduce((sum, one) => sum + one.dead_letters_open, 0);
    const keys = group.reduce((sum, one) => sum + one.blocked_keys, 0);
    const behind = keys === 0 ? "" : `, and ${counted(keys, "key waits", "keys wait")} behind them`;
    const command = group.length === 1 ? `tidegate dlq list --pipeline ${group[0].name}` : "tidegate dlq list";
    yield finding(WATCH, "parked", subjectOf(group),
      `${group.length === 1 ? "has" : "have"} ${counted(letters, "dead letter")} that ${letters === 1 ? "waits" : "wait"} for a person${behind}.`,
      `See why with \`${command}\`, then retry or discard.`, "TidegateRowsParked", group);
  }
}

/** What to do about rows that are late, by what keeps those of their tenant waiting. */
function whyLate(status, { tenant, stream }) {
  const limit = (status.tenants ?? []).find((one) => one.name === tenant)?.limited_by;
  const todo = {
    quota: `The rate limit of tenant ${tenant} keeps them: raise it, or wait.`,
    memory: `The memory of tenant ${tenant} is used up: something else of it is slow, or its limit is low.`,
    key_order: "Rows of one key wait for each other: see `tidegate shards --keys`.",
  };
  return todo[limit] ?? `See whether stream ${stream} has a full shard below.`;
}

function* ofTenants(status) {
  for (const { name, problem } of status.tenants ?? []) {
    if (!problem) continue;
    const users = status.pipelines.filter((one) => one.tenant === name);
    yield finding(WATCH, "tenant", `The definition of tenant ${name}`, `is not acceptable: ${problem}`,
      "What was in force before goes on.", null, [], users);
  }
}

function* ofShards(status) {
  for (const stream of status.streams) {
    const near = stream.shards.filter((one) => used(one) > NEAR_BUDGET);
    if (near.length > 0) {
      const hottest = near.reduce((one, other) => (used(other) > used(one) ? other : one));
      const which = usedRecords(hottest) >= usedBytes(hottest) ? "records" : "bytes";
      const queued = near.reduce((sum, one) => sum + one.queued_rows, 0);
      const all = near.length === stream.shards.length;
      const who = all && near.length > 1 ? `All ${count(near.length)} shards` : near.length === 1
        ? `Shard ${hottest.id}` : `${count(near.length)} of ${count(stream.shards.length)} shards`;
      yield finding(WATCH, "shard", `${who} of stream ${streamTitle(status, stream)}`,
        `${near.length === 1 ? "is" : "are"} near the budget: up to ${percent(used(hottest))} of its ${which} used, ` +
        `${counted(queued, "row waits", "rows wait")}.`,
        all ? "Add shards if this lasts." : "Split it, or use a partition key with more values.", "TidegateShardNearBudget",
        [], usersOf(status, stream));
    }
    for (const group of groups(stream.shards.filter((one) => one.problem), (one) => one.problem)) {
      const who = group.length === 1 ? `Shard ${group[0].id}` : `${count(group.length)} shards`;
      yield finding(WATCH, "calls", `${who} of stream ${streamTitle(status, stream)}`, `cannot be written to: ${group[0].problem}`,
        "The calls are tried again by themselves.", "TidegateStreamTrouble", [], usersOf(status, stream));
    }
  }
}

/** What other nodes write to as well this one has a share of: how much of that it uses. */
const ofShare = (part, share) => (share > 0 ? part / share : part);
export const usedRecords = (shard) => ofShare(shard.records_utilisation, shard.records_share);
export const usedBytes = (shard) => ofShare(shard.bytes_utilisation, shard.bytes_share);
export const used = (shard) => Math.max(usedRecords(shard), usedBytes(shard));

function* ofRetention(status) {
  for (const database of status.retention) {
    if (database.problem) {
      yield finding(WATCH, "sweep", `Retention in database ${database.database}`, `cannot delete: ${database.problem}`,
        "The outboxes grow until it can.", "TidegateRetentionHeld");
    }
    for (const outbox of database.outboxes) {
      for (const hold of outbox.held_by) {
        const disabled = hold.disabled ? ", which is disabled," : "";
        const pipelines = status.pipelines.filter((one) => one.database === database.database && one.name === hold.pipeline);
        yield finding(WATCH, "held", `Outbox ${database.database}/${outbox.outbox}`,
          `grows: pipeline ${hold.pipeline}${disabled} holds rows that outlived the retention ${duration(hold.held_seconds)} ago.`,
          "Let it run, or delete it.", "TidegateRetentionHeld", pipelines);
      }
    }
  }
}

function* ofRestarts(status) {
  const recent = (status.events ?? []).filter((one) => one.kind === "restart" && status.at - one.at < RESTARTS_SECONDS);
  for (const group of groups(recent, (one) => one.actor)) {
    const restarts = group.reduce((sum, one) => sum + one.count, 0);
    if (restarts <= MANY_RESTARTS) continue;
    const causes = [...new Set(group.map((one) => one.cause.replaceAll("_", " ")))];
    yield finding(WATCH, "restarts", `Actors of kind ${group[0].actor}`,
      `were started again ${count(restarts)} times lately (${names(causes)}).`,
      "See below which, and in the log why.", "TidegateActorRestarts");
  }
}
