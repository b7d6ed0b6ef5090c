// The gallery: all crops, narrowed by filters, selected, edited, deleted, and their people erased.

import { get } from "./api.js";
import { deleteItems, deleteMatching } from "./deleting.js";
import { press } from "./dialogs.js";
import { count, make, partsOf } from "./dom.js";
import { editItems, localTime } from "./editing.js";
import { endless } from "./endless.js";
import { erasePeople } from "./erasing.js";
import { itemCard } from "./items.js";
import { offerPeople } from "./names.js";
import { go, onShow } from "./route.js";
import { selectable } from "./selection.js";
import { may } from "./session.js";

const PAGE = 60;
const TIMES = ["captured_after", "captured_before"];
const FILTERS = ["identity_id", "camera_id", "track_id", "attribute", ...TIMES];

const form = document.querySelector("#gallery-form");
const parts = partsOf(document.querySelector("#gallery"));

let shown = null;
let filters = {};

const list = endless({
  list: parts.items,
  foot: parts.foot,
  async fetchPage(cursor, signal) {
    const query = new URLSearchParams({ ...filters, limit: PAGE, cursor });
    const { items, next_cursor } = await get(`gallery?${query}`, { signal });
    return { entries: items, next_cursor };
  },
  card: (item) => itemCard(item),
  empty: nothing,
  whole: (num) => [`${count(num, "crop")}, and no more.`],
});
const selection = selectable(parts.items, parts.bar);

function nothing() {
  const link = (href, text) => make("a", { href }, text);
  if (Object.keys(filters).length) return ["No crop passes these filters. ", link("#gallery", "Show all crops")];
  if (may("operator")) return ["The gallery is empty. ", link("#enrol", "Enrol the first crops")];
  return ["The gallery has no crop that your key may see."];
}

onShow("gallery", (state) => {
  const given = FILTERS.filter((name) => state.get(name));
  filters = Object.fromEntries(given.map((name) => [name, state.get(name)]));
  const wanted = JSON.stringify(filters);
  if (wanted === shown) return;
  shown = wanted;
  fill();
  selection.none();
  list.begin();
  tellNumbers();
});

/** Say how much there is in all. The list says itself if the service cannot be reached. */
async function tellNumbers() {
  const numbers = await get("stats?days=0").catch(() => null);
  parts.numbers.textContent = numbers ? `${count(numbers.num_items, "crop")} of ` +
    `${count(numbers.num_identities, "person", "people")}, seen by ${count(numbers.num_cameras, "camera")}.` : "";
}

/** Show in the form the filters that the address has. */
function fill() {
  for (const name of FILTERS) {
    const at = TIMES.includes(name) && filters[name] ? new Date(filters[name]) : null;
    form.elements[name].value = at && !Number.isNaN(at.getTime()) ? localTime(at) : at ? "" : filters[name] ?? "";
  }
  parts.filters.open ||= Object.keys(filters).length > 0;
  parts.matching.hidden = !Object.keys(filters).length;
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const wanted = FILTERS.map((name) => {
    const { value } = form.elements[name];
    return [name, TIMES.includes(name) && value ? new Date(value).toISOString() : value.trim()];
  });
  shown = null; // also the same filters show what has changed since
  go("gallery", Object.fromEntries(wanted));
});

// Crops that were changed here change their cards, so that nobody is taken back to the begin of the list.
document.addEventListener("gallery-changed", ({ detail }) => {
  if (!detail) {
    shown = null;
    return;
  }
  for (const item of detail.items ?? []) replaceCard(item.id, itemCard(item));
  for (const id of detail.deleted ?? []) replaceCard(id);
});

function replaceCard(id, ...cards) {
  parts.items.querySelector(`[data-item="${id}"]`)?.closest("li").replaceWith(...cards);
}

const withChosen = (button, act) => press(button, async () => {
  if (await act(selection.chosen())) selection.none();
}, parts.message);
withChosen(parts.edit, editItems);
withChosen(parts.delete, deleteItems);
withChosen(parts.erase, (items) => erasePeople([...new Set(items.map(({ identity_id }) => identity_id))]));
parts.all.addEventListener("click", selection.all);
press(parts.matching, () => deleteMatching(filters), parts.message);

document.addEventListener("other-caller", () => {
  shown = null;
  list.clear();
  parts.numbers.replaceChildren();
  selection.none();
  parts.message.replaceChildren();
});
offerPeople(form.elements.identity_id);
