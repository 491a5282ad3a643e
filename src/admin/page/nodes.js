// Nodes with what they hold, and databases.

import { tableRows } from "./dom.js";
import { count, counted, duration, names, percent } from "./format.js";
import { owner } from "./pipelines.js";

export class Nodes {
  constructor() {
    this.nodes = tableRows(document.getElementById("node-rows"), (node) => node.key,
      ["word", "", "word", "number", "number", ""],
      (node) => [node.name, node.database, node.state, node.beat, node.pipelines, node.tenants]);
    this.databases = tableRows(document.getElementById("database-rows"), (database) => database.name, ["word", "why", "word", "why"],
      (database) => [database.name, state(database), server(database), database.kept]);
  }

  show(status, filter) {
    const { tenant } = filter.value;
    const tenants = new Map();
    const free = new Map();
    for (const one of status.pipelines) {
      if (tenant && one.tenant !== tenant) continue;
      const who = owner(one, status.node);
      if (!who) free.set(one.database, (free.get(one.database) ?? 0) + 1);
      const key = `${one.database} ${who}`;
      if (!tenants.has(key)) tenants.set(key, new Set());
      if (one.tenant) tenants.get(key).add(one.tenant);
    }
    const whose = (database, node) => names([...(tenants.get(`${database} ${node}`) ?? [])].sort()) || "-";
    const rows = [];
    for (const { name, cluster } of status.databases) {
      for (const one of cluster?.nodes ?? []) {
        const isThis = one.node === status.node;
        const target = isThis ? ` (part: ${count(cluster.target)})` : "";
        const asks = one.asks > 0 ? `, asks for ${count(one.asks)}` : "";
        rows.push({ key: `${name} ${one.node}`, name: one.node, database: name, state: `${one.state}${isThis ? ", this one" : ""}${asks}`,
          beat: isThis ? "-" : `${duration(one.silent_seconds)} ago`, pipelines: count(one.pipelines) + target,
          tenants: whose(name, one.node) });
      }
      // Before the first beat, and while the database is away, this node at least is there.
      if (!cluster) {
        rows.push({ key: `${name} ${status.node}`, name: status.node, database: name, state: `${status.phase}, this one`,
          beat: "-", pipelines: "-", tenants: whose(name, status.node) });
      }
      if (free.has(name)) {
        rows.push({ key: `${name} `, name: "nobody", database: name, state: "paused, invalid or not taken yet",
          beat: "-", pipelines: count(free.get(name)), tenants: whose(name, "") });
      }
    }
    this.nodes.show(rows);
    const retention = new Map(status.retention.map((one) => [one.database, one]));
    this.databases.show(status.databases.map((one) => ({ ...one, kept: kept(retention.get(one.name)) })));
  }
}

function state({ up, problem, other_budgets: others = [] }) {
  if (!up) return `in trouble: ${problem ?? ""}`;
  return others.length > 0 ? `up; ${others.join(", ")} divides shards in another database: see cluster.database` : "up";
}

function server({ server }) {
  // Packagers add to the number what nobody needs here.
  return server ? `PostgreSQL ${server.version.split(" ")[0]}` : "-";
}

function kept(retention) {
  if (!retention) return "-";
  if (retention.problem) return retention.problem;
  if (!retention.sweeps) return "another node sweeps";
  const held = retention.outboxes.flatMap((outbox) =>
    outbox.held_by.map((hold) => `${outbox.outbox} by ${hold.pipeline} (${duration(hold.held_seconds)})`));
  const who = held.length > 0 ? names(held) : `nobody (${counted(retention.outboxes.length, "outbox", "outboxes")})`;
  const sweeps = retention.outboxes.filter((outbox) => outbox.sweep).map(sweeping);
  return [who, ...(sweeps.length > 0 ? [names(sweeps)] : [])].join("; ");
}

/** How far the deleting of an outbox's old rows has come. */
function sweeping({ outbox, sweep }) {
  const left = sweep.left_seconds === null ? "" : `, about ${duration(sweep.left_seconds)} left`;
  return `old rows of ${outbox}: ${percent(sweep.part)} deleted (${count(sweep.deleted_rows)}${left})`;
}
