// What each tenant may have, and what it gets here.

import { setHidden, tableRows } from "./dom.js";
import { bytes, count, percent, rate } from "./format.js";
import { pipelineKey } from "./findings.js";

/** What keeps rows waiting, as people say it. */
export const LIMITS = { quota: "its rate limit", shard: "full shards", key_order: "rows of one key", memory: "its memory" };

export class Tenants {
  constructor() {
    this.rows = tableRows(document.getElementById("tenant-rows"), (tenant) => tenant.name,
      ["word", "number", "number", "number", "number", "word"],
      (tenant) => [tenant.name, `${count(tenant.pipelines_here)} of ${count(tenant.pipelines)}`, count(tenant.weight),
        tenant.rate, `${bytes(tenant.in_flight_bytes)}${tenant.max_in_flight_bytes === null ? "" : ` of ${bytes(tenant.max_in_flight_bytes)}`}`,
        LIMITS[tenant.limited_by] ?? tenant.limited_by ?? "-"]);
    this.section = document.getElementById("tenants-section");
  }

  show(status, filter, rates) {
    const { tenant } = filter.value;
    const wanted = (status.tenants ?? []).filter((one) => !tenant || one.name === tenant);
    const now = new Map();
    for (const one of status.pipelines) {
      now.set(one.tenant, (now.get(one.tenant) ?? 0) + rates.now(pipelineKey(one)));
    }
    // Who is kept waiting stands first.
    wanted.sort((one, other) => Number(Boolean(other.limited_by)) - Number(Boolean(one.limited_by)));
    this.rows.show(wanted.map((one) => ({ ...one, rate: `${rate(now.get(one.name) ?? 0)}${limit(one)}` })));
    setHidden(this.section, wanted.length === 0);
  }
}

/** The rates that were set, as far as this node may use them. */
function limit(tenant) {
  const set = [];
  if (tenant.max_messages_per_second !== null) set.push(`${count(tenant.max_messages_per_second)} rows/s`);
  if (tenant.max_bytes_per_second !== null) set.push(`${bytes(tenant.max_bytes_per_second)}/s`);
  if (set.length === 0) return "";
  const part = tenant.quota_fraction < 1 ? `, here ${percent(tenant.quota_fraction)} of it` : "";
  return ` (limit ${set.join(", ")}${part})`;
}
