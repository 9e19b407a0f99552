// Requests to this replica. The token is kept for the browser tab alone, and is sent in a header only.

const KEY = "tokentrace.token";

export class Unauthorized extends Error {}

export const session = {
  get token() {
    return sessionStorage.getItem(KEY) ?? "";
  },
  set token(value) {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  },
};

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (session.token) headers.Authorization = `Bearer ${session.token}`;
  const response = await fetch(path, {
    ...options,
    headers,
    cache: "no-store",
    credentials: "omit",
    redirect: "error",
    signal: AbortSignal.timeout(20_000),
  });
  if (response.status === 401) throw new Unauthorized("This page requires the token.");
  return response;
}

async function answer(response) {
  const content = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(content.error ?? `The replica answers ${response.status}.`);
  return content;
}

/** Seconds to add to this computer's clock to get the replica's. */
export function clockOffset(response) {
  const theirs = Date.parse(response.headers.get("Date") ?? "");
  return Number.isNaN(theirs) ? 0 : Math.round((theirs - Date.now()) / 1000);
}

/** The document of a view; null where it is still the one with this tag. */
export async function fetchData(query, tag) {
  const response = await request(`ui/data?${query}`, { headers: tag ? { "If-None-Match": tag } : {} });
  const offset = clockOffset(response);
  if (response.status === 304) return { data: null, tag, offset };
  return { data: await answer(response), tag: response.headers.get("ETag"), offset };
}

export async function fetchState() {
  return answer(await request("ui/state"));
}

export async function silence(alert, duration) {
  const path = `alerts/${alert.split("/").map(encodeURIComponent).join("/")}/silence`;
  return answer(await request(path, { method: "POST", body: JSON.stringify({ duration }) }));
}
