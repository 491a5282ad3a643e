// What happened lately.

import { setHidden, tableRows } from "./dom.js";
import { count, moment } from "./format.js";

const spaced = (text) => text.replaceAll("_", " ");

const WHAT = {
  restart: (event) => `started again: ${spaced(event.cause)}`,
  reload: (event) => `reload ${event.cause}`,
  parked: (event) => `rows parked: ${spaced(event.cause)}`,
};

export class Events {
  constructor() {
    const key = (event) => [event.kind, event.subject, event.cause, event.first_at].join(" ");
    this.rows = tableRows(document.getElementById("event-rows"), key, ["word", "", "why", "word", "number"], (event) => [
      event.count > 1 && event.first_at !== event.at ? `${moment(event.first_at)} to ${moment(event.at)}` : moment(event.at),
      WHAT[event.kind]?.(event) ?? event.kind,
      event.kind === "reload" ? `configuration ${event.subject.slice(0, 12)}` : event.subject,
      event.tenant ?? "-",
      event.kind === "parked" ? `${count(event.count)} ${event.count === 1 ? "row" : "rows"}` : count(event.count),
    ]);
    this.nothing = document.getElementById("no-events");
  }

  show(status, filter) {
    const { tenant } = filter.value;
    const wanted = status.events.filter((event) => !tenant || !event.tenant || event.tenant === tenant);
    this.rows.show(wanted);
    setHidden(this.nothing, wanted.length > 0);
  }
}
