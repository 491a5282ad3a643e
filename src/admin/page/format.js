// Numbers and times as people read them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const tenths = new Intl.NumberFormat("en-US", { maximumFractionDigits: 1 });

export const count = (number) => whole.format(number);

/** A rate with a digit behind the point while it is small. */
export const rate = (number) => (number < 10 ? tenths : whole).format(number);

export const percent = (part) => `${Math.round(part * 100)} %`;

/** "512 B", "1.5 KiB", "20 MiB". */
export function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  let left = number;
  while (left >= 1024 && unit < units.length - 1) {
    left /= 1024;
    unit += 1;
  }
  return `${(left < 10 && unit > 0 ? tenths : whole).format(left)} ${units[unit]}`;
}

/** "1 row", "2,000 rows". */
export const counted = (number, one, many = `${one}s`) => `${count(number)} ${number === 1 ? one : many}`;

/** "0 s", "59 s", "12 min", "3.5 h", "4 days". */
export function duration(seconds) {
  if (seconds < 0.05) return "0 s";
  if (seconds < 10) return `${tenths.format(seconds)} s`;
  if (seconds < 90) return `${whole.format(seconds)} s`;
  if (seconds < 90 * 60) return `${whole.format(seconds / 60)} min`;
  if (seconds < 48 * 3600) return `${tenths.format(seconds / 3600)} h`;
  return `${whole.format(seconds / 86400)} days`;
}

/** A moment of today as a time, of another day with its date. */
export function moment(seconds) {
  const at = new Date(seconds * 1000);
  const time = at.toLocaleTimeString("en-GB");
  const isToday = at.toDateString() === new Date().toDateString();
  return isToday ? time : `${at.toLocaleDateString("en-CA")} ${time}`;
}

/** "a", "a and b", "a, b and 5 more". */
export function names(all, most = 3) {
  if (all.length <= 1) return all[0] ?? "";
  if (all.length <= most) return `${all.slice(0, -1).join(", ")} and ${all.at(-1)}`;
  return `${all.slice(0, most).join(", ")} and ${count(all.length - most)} more`;
}
