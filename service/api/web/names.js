// What a field offers while somebody types: people by their names, and the cameras of the gallery.

import { get } from "./api.js";
import { make } from "./dom.js";

const MOST = 10;
const cameras = document.querySelector("#camera-names");

/** Offer people in a list while their name is typed into `input`, by their ids with their names. */
export function offerPeople(input) {
  const list = make("datalist", { id: `${input.name}-of-${input.form?.id || "question"}` });
  input.setAttribute("list", list.id);
  input.after(list);
  let running = new AbortController();
  input.addEventListener("input", async () => {
    running.abort();
    running = new AbortController();
    const query = new URLSearchParams({ name: input.value, limit: MOST });
    if (!input.value.trim()) return;
    try {
      const { identities } = await get(`identities?${query}`, { signal: running.signal });
      const options = identities.map(({ id, name }) => make("option", { value: id, label: `${name} (${id})` }));
      list.replaceChildren(...options);
    } catch {
      list.replaceChildren(); // the field takes an id without help too
    }
  });
}

/** Offer the cameras of these crops wherever a camera is asked for. */
export function offerCameras(items) {
  const known = new Set([...cameras.options].map(({ value }) => value));
  const names = new Set(items.map(({ camera_id }) => camera_id).filter((name) => name && !known.has(name)));
  cameras.append(...[...names].map((value) => make("option", { value })));
}

document.addEventListener("other-caller", () => cameras.replaceChildren());
