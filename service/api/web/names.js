// What a field offers while somebody types: people by their names, and the cameras of the gallery.

import { get } from "./api.js";
import { count, make } from "./dom.js";

const MOST = 10;
const names = document.querySelector("#camera-names");

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

/** Fetch the cameras that a field for cameras offers, each time that somebody enters such a field. */
async function offerCameras() {
  try {
    const { cameras } = await get("cameras");
    names.replaceChildren(...cameras.map(({ id, num_items }) =>
      make("option", { value: id, label: `${id} (${count(num_items, "crop")})` })));
  } catch {
    names.replaceChildren(); // the field takes an id without help too
  }
}

document.addEventListener("focusin", ({ target }) => {
  if (target.getAttribute("list") === names.id) offerCameras();
});
document.addEventListener("other-caller", () => names.replaceChildren());
