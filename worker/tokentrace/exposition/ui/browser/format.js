// Text of numbers and times. Pure functions: tests run them in Node.

const NANO = 1_000_000_000n;

/** Round to three significant digits, with a letter for thousands, millions and so on. */
export function short(number) {
  if (number === null || number === undefined || Number.isNaN(number)) return "–";
  const size = Math.abs(number);
  for (const [limit, letter] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e4, "k"]]) {
    if (size >= limit) return `${trimmed(number / (limit === 1e4 ? 1e3 : limit))}${letter}`;
  }
  return trimmed(number);
}

function trimmed(number) {
  return Number.isInteger(number) ? grouped(String(number)) : String(Number(number.toPrecision(3)));
}

function grouped(digits) {
  return digits.replace(/\B(?=(\d{3})+$)/g, ",");
}

/** Every digit of a count. */
export function whole(number) {
  return grouped(String(number));
}

/** Exact US dollars of nano-USD, given as text: at least cents, at most the digits that there are. */
export function dollars(nanoText) {
  const nano = BigInt(nanoText);
  const sign = nano < 0n ? "-" : "";
  const size = nano < 0n ? -nano : nano;
  const fraction = String(size % NANO).padStart(9, "0").replace(/0{1,7}$/, "");
  return `${sign}$${grouped(String(size / NANO))}.${fraction}`;
}

/** US dollars to three significant digits, but never fewer than the cents from a dollar on. */
export function aboutDollars(usd) {
  if (usd === null || usd === undefined || Number.isNaN(usd)) return "–";
  if (usd === 0) return "$0";
  if (usd >= 1e6) return `$${short(usd)}`;
  if (usd >= 1) {
    const [integer, cents] = usd.toFixed(2).split(".");
    return `$${grouped(integer)}.${cents}`;
  }
  return usd < 1e-9 ? "<$0.000000001" : `$${Number(usd.toPrecision(3)).toFixed(12).replace(/0+$/, "")}`;
}

export function milliseconds(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(ms < 10_000 ? 2 : 1)} s`;
}

/** A share of a whole in percent; an en dash without a whole. */
export function percent(part, all) {
  if (!all) return "–";
  const share = (100 * part) / all;
  return `${share > 0 && share < 0.01 ? "<0.01" : Number(share.toFixed(share < 10 ? 2 : 1))} %`;
}

/** How long ago, in the largest unit that has a whole number. */
export function ago(seconds) {
  const passed = Math.max(0, seconds);
  for (const [unit, name] of [[86400, "d"], [3600, "h"], [60, "min"]]) {
    if (passed >= unit) return `${Math.floor(passed / unit)} ${name} ago`;
  }
  return `${Math.floor(passed)} s ago`;
}

/** Hours and minutes of Unix time, in the browser's zone. */
export function clock(unixSeconds) {
  const time = new Date(unixSeconds * 1000);
  return [time.getHours(), time.getMinutes()].map((part) => String(part).padStart(2, "0")).join(":");
}

/** Date and time of Unix time, in UTC. */
export function moment(unixSeconds) {
  return new Date(unixSeconds * 1000).toISOString().slice(0, 19).replace("T", " ");
}

/** The value of a label as it is shown: an empty one needs a name. */
export function labelText(value) {
  return value === "" ? "(empty)" : value;
}
