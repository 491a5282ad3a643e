// Nodes with what they hold, and databases.

import { element, setText, tableRows } from "./dom.js";
import { count, counted, duration, names } from "./format.js";
import { owner } from "./pipelines.js";

/** What is shown of a node besides its name; `nodes` of a status may know more of it. */
const COLUMNS = ["Node", "State", "Leases", "Tenants"];

export class Nodes {
  constructor() {
    const head = COLUMNS.map((text) => element("th", { scope: "col", class: text === "Leases" ? "number" : null }, text));
    document.getElementById("node-head").append(element("tr", {}, ...head));
    this.nodes = tableRows(document.getElementById("node-rows"), (node) => node.name, ["word", "", "number", ""],
      (node) => [node.name, node.state, count(node.leases), names([...node.tenants].sort()) || "-"]);
    this.databases = tableRows(document.getElementById("database-rows"), (database) => database.name, ["word", "why", "word", "why"],
      (database) => [database.name, database.up ? "up" : `in trouble: ${database.problem ?? ""}`, server(database), database.kept]);
  }

  show(status, filter) {
    const { tenant } = filter.value;
    const all = new Map();
    const node = (name) => {
      if (!all.has(name)) all.set(name, { name, state: "", leases: 0, tenants: new Set() });
      return all.get(name);
    };
    node(status.node).state = `this one, ${status.phase}`;
    for (const known of status.nodes ?? []) {
      const shown = node(known.name);
      shown.state ||= known.state ?? "";
    }
    let free = 0;
    for (const one of status.pipelines) {
      if (tenant && one.tenant !== tenant) continue;
      const who = owner(one, status.node);
      if (!who) {
        free += 1;
        continue;
      }
      const holder = node(who);
      holder.state ||= "holds leases";
      holder.leases += 1;
      if (one.tenant) holder.tenants.add(one.tenant);
    }
    const rows = [...all.values()];
    if (free > 0) rows.push({ name: "nobody", state: "paused, invalid or not taken yet", leases: free, tenants: new Set() });
    this.nodes.show(rows);
    const retention = new Map(status.retention.map((one) => [one.database, one]));
    this.databases.show(status.databases.map((one) => ({ ...one, kept: kept(retention.get(one.name)) })));
  }
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
  return held.length > 0 ? names(held) : `nobody (${counted(retention.outboxes.length, "outbox", "outboxes")})`;
}
