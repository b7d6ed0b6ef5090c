// The people of the gallery: a card for each, found by name and attribute.

import { get, identityPath } from "./api.js";
import { count, make, named, partsOf, picture, time } from "./dom.js";
import { endless } from "./endless.js";
import { go, onShow, personAddress } from "./route.js";

const PAGE = 24;
const FILTERS = ["name", "attribute", "camera_id"];

const form = document.querySelector("#people-form");
const parts = partsOf(document.querySelector("#people"));

let shown = null;
let filters = {};

const list = endless({
  list: parts.people,
  foot: parts.foot,
  async fetchPage(cursor, signal) {
    const query = new URLSearchParams({ ...filters, limit: PAGE, cursor });
    const { identities, next_cursor } = await get(`identities?${query}`, { signal });
    return { entries: identities, next_cursor };
  },
  card: personCard,
  empty: nobody,
  whole: (num) => [`${count(num, "person", "people")}, and nobody more.`],
});

function nobody() {
  if (!Object.keys(filters).length) return ["There is nobody in the gallery that your key may see."];
  return ["Nobody passes these filters. ", make("a", { href: "#people" }, "Show all people")];
}

function personCard({ id, name, num_items, last_seen, cameras }) {
  const frame = make("span", { className: "frame" });
  if (num_items) showNewest(frame, id);
  return make("li", { className: "tile" },
    make("a", { href: personAddress(id), className: "whole" }, frame, named(name ?? id)),
    make("span", { className: "where" },
      make("span", {}, `${count(num_items, "crop")}, ${count(cameras.length, "camera")}`),
      last_seen ? time(last_seen) : null));
}

/** Show a crop of a person; the list of people has none. */
async function showNewest(frame, id) {
  try {
    const { items } = await get(`${identityPath(id)}/items?limit=1`);
    frame.replaceChildren(...items.map((item) => picture(item.id)));
  } catch {
    frame.textContent = "no picture"; // the person was deleted, or the service is gone, which the list says
  }
}

onShow("people", (state) => {
  const given = FILTERS.filter((name) => state.get(name));
  filters = Object.fromEntries(given.map((name) => [name, state.get(name)]));
  const wanted = JSON.stringify(filters);
  if (wanted === shown) return;
  shown = wanted;
  for (const name of FILTERS) form.elements[name].value = filters[name] ?? "";
  list.begin();
});

form.addEventListener("submit", (event) => {
  event.preventDefault();
  shown = null; // also the same filters show what has changed since
  go("people", Object.fromEntries(FILTERS.map((name) => [name, form.elements[name].value.trim()])));
});
document.addEventListener("gallery-changed", () => { shown = null; });
document.addEventListener("other-caller", () => {
  shown = null;
  list.clear();
});
