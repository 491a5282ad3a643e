// What is to be seen. It is kept in the address, so that a link says it.

const NOTHING = { tenant: "", find: "", trouble: false, sort: "", descending: false };

/** The filter that an address has behind its #. */
export function parse(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const sort = said.get("sort") ?? "";
  return {
    tenant: said.get("tenant") ?? "",
    find: said.get("find") ?? "",
    trouble: said.get("trouble") === "1",
    sort: sort.replace(/^-/, ""),
    descending: sort.startsWith("-"),
  };
}

/** What an address has behind its # for a filter; empty when nothing is filtered. */
export function written(filter) {
  const said = new URLSearchParams();
  if (filter.tenant) said.set("tenant", filter.tenant);
  if (filter.find) said.set("find", filter.find);
  if (filter.trouble) said.set("trouble", "1");
  if (filter.sort) said.set("sort", (filter.descending ? "-" : "") + filter.sort);
  return said.toString();
}

export class Filter {
  constructor(changed) {
    this.changed = changed;
    this.tenant = document.getElementById("tenant");
    this.find = document.getElementById("find");
    this.trouble = document.getElementById("trouble");
    this.clear = document.getElementById("clear");
    this.value = { ...NOTHING, ...parse(location.hash) };
    this.showValue();
    document.getElementById("filter").addEventListener("submit", (event) => event.preventDefault());
    this.tenant.addEventListener("change", () => this.set({ tenant: this.tenant.value }));
    this.find.addEventListener("input", () => this.set({ find: this.find.value }));
    this.trouble.addEventListener("change", () => this.set({ trouble: this.trouble.checked }));
    this.clear.addEventListener("click", () => {
      this.set({ ...NOTHING, sort: this.value.sort, descending: this.value.descending });
      this.find.focus();
    });
    window.addEventListener("hashchange", () => {
      this.value = { ...NOTHING, ...parse(location.hash) };
      this.showValue();
      this.changed();
    });
  }

  set(change) {
    Object.assign(this.value, change);
    const hash = written(this.value);
    // No entry of its own in the browser's history for every letter typed.
    history.replaceState(null, "", hash ? `#${hash}` : location.pathname + location.search);
    this.showValue();
    this.changed();
  }

  showValue() {
    const { tenant, find, trouble } = this.value;
    this.offer(tenant);
    if (this.tenant.value !== tenant) this.tenant.value = tenant;
    if (this.find.value !== find) this.find.value = find;
    this.trouble.checked = trouble;
    this.clear.hidden = !(tenant || find || trouble);
  }

  /** The tenants there are, and the one that is chosen, be it gone. */
  offerTenants(tenants) {
    const all = new Set(tenants);
    if (this.value.tenant) all.add(this.value.tenant);
    const wanted = [...all].filter(Boolean).sort();
    const offered = [...this.tenant.options].slice(1).map((option) => option.value);
    if (wanted.join("\n") === offered.join("\n")) return;
    this.tenant.length = 1;
    for (const name of wanted) this.tenant.add(new Option(name, name));
    this.tenant.value = this.value.tenant;
  }

  offer(name) {
    const isOffered = [...this.tenant.options].some((option) => option.value === name);
    if (!isOffered) this.tenant.add(new Option(name, name));
  }

  /** Whether a pipeline is to be seen, `severity` of what was found about it. */
  wants(pipeline, severity) {
    const { tenant, find, trouble } = this.value;
    if (tenant && pipeline.tenant !== tenant) return false;
    if (trouble && severity < 2) return false;
    if (!find) return true;
    const wanted = find.toLowerCase();
    const texts = [`${pipeline.database}/${pipeline.name}`, pipeline.outbox, pipeline.stream, pipeline.tenant,
      pipeline.state, pipeline.reason ?? "", pipeline.owner ?? ""];
    return texts.some((text) => text.toLowerCase().includes(wanted));
  }
}
