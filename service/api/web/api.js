// Requests to the service. Paths are relative, so the page also works below a prefix of a proxy.

/** An error with the members of a problem document, which the API or this module has made. */
export class Problem extends Error {
  constructor(body) {
    super(body.detail);
    Object.assign(this, body);
  }
}

/** Send a request and return the JSON of the answer, or null if the answer has none. Throws Problem, or the reason
 * for which `signal` was aborted.
 *
 * The document gets the event `refused` if nobody is signed in, with the problem, and when the request began. */
export async function send(method, path, { form, json, signal } = {}) {
  const headers = json === undefined ? {} : { "Content-Type": "application/json" };
  const body = json === undefined ? form : JSON.stringify(json);
  const began = performance.now();
  let answer;
  try {
    answer = await fetch(path, { method, headers, body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Problem({ title: "No answer", detail: "the service cannot be reached; is it running?" });
  }
  const type = answer.headers.get("Content-Type") ?? "";
  const isEmpty = answer.status === 204; // the service calls this JSON too
  const content = type.includes("json") && !isEmpty ? await answer.json() : null;
  if (answer.ok) return content;
  const problem = new Problem({
    title: answer.statusText || `HTTP ${answer.status}`,
    detail: "the service gave no reason",
    status: answer.status,
    request_id: answer.headers.get("X-Request-ID"),
    ...content,
  });
  if (answer.status === 401) document.dispatchEvent(new CustomEvent("refused", { detail: { problem, began } }));
  throw problem;
}

export const get = (path, options) => send("GET", path, options);
export const post = (path, options) => send("POST", path, options);

/** Return the path of an identity, whose id may contain any characters. */
export const identityPath = (id) => `identities/${encodeURIComponent(id)}`;

/** Return the fields of a form, with local times converted to RFC 3339. */
export function fieldsOf(form) {
  const fields = new FormData(form);
  for (const input of form.querySelectorAll("input[type=datetime-local]")) {
    if (input.value) fields.set(input.name, new Date(input.value).toISOString());
  }
  return fields;
}
