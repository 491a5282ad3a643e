// The rows that each pipeline delivered a second, and a line that shows them.

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 96;
const HEIGHT = 22;

export class Rates {
  constructor() {
    this.looks = null;
    this.points = 60;
    this.pipelines = new Map();
  }

  /** What to ask for: what is new since the last answer. */
  path() {
    return this.looks === null ? "api/history" : `api/history?after=${this.looks}`;
  }

  take(answer) {
    const isNew = this.looks === null || answer.looks < this.looks;
    const missed = isNew ? answer.points : Math.min(answer.looks - this.looks, answer.points);
    if (isNew) this.pipelines.clear();
    this.looks = answer.looks;
    this.points = answer.points;
    if (missed === 0) return;
    const told = new Map(answer.pipelines.map((one) => [`${one.database}/${one.name}`, one.rows_per_second]));
    for (const key of new Set([...this.pipelines.keys(), ...told.keys()])) {
      const new_ = told.get(key) ?? [];
      // Of what delivered nothing nothing is said.
      const zeros = new Array(missed - new_.length).fill(0);
      const all = [...(this.pipelines.get(key) ?? []), ...zeros, ...new_].slice(-this.points);
      if (all.some((rate) => rate > 0)) this.pipelines.set(key, all);
      else this.pipelines.delete(key);
    }
  }

  of(key) {
    return this.pipelines.get(key) ?? [];
  }

  /** The newest rate. */
  now(key) {
    return this.of(key).at(-1) ?? 0;
  }
}

/** An empty line; `draw` fills it. The number beside it says what it shows last. */
export function sparkline() {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("class", "spark");
  svg.setAttribute("aria-hidden", "true");
  const area = document.createElementNS(SVG, "path");
  area.setAttribute("class", "spark-area");
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("class", "spark-line");
  svg.append(area, line);
  return { svg, area, line, drawn: null };
}

export function draw(spark, rates, points) {
  const text = rates.join(" ");
  if (spark.drawn === text) return;
  spark.drawn = text;
  const most = Math.max(...rates, 1);
  const step = WIDTH / (points - 1);
  const first = points - rates.length;
  const at = (rate, place) => `${((first + place) * step).toFixed(1)},${(HEIGHT - 1.5 - (rate / most) * (HEIGHT - 4)).toFixed(1)}`;
  const path = rates.map((rate, place) => `${place === 0 ? "M" : "L"}${at(rate, place)}`).join("");
  spark.line.setAttribute("d", path);
  const begin = (first * step).toFixed(1);
  spark.area.setAttribute("d", path && `${path}L${WIDTH},${HEIGHT}L${begin},${HEIGHT}Z`);
}
