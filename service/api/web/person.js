// The page of a person: where and when they were seen, their crops, and what can be corrected.

import { get, identityPath } from "./api.js";
import { deleteItems, deletePerson } from "./deleting.js";
import { press } from "./dialogs.js";
import { count, make, named, partsOf, showMessage, showProblem, time } from "./dom.js";
import { editItems } from "./editing.js";
import { endless } from "./endless.js";
import { erasePeople } from "./erasing.js";
import { corrections } from "./history.js";
import { itemCard } from "./items.js";
import { lanes, visitEntry } from "./lanes.js";
import { describePerson, mergePerson, rejectItems, splitItems } from "./persons.js";
import { address, entitle, onShow } from "./route.js";
import { selectable } from "./selection.js";
import { may } from "./session.js";

const PAGE = 60;

const section = document.querySelector("#person");
const heading = section.querySelector("h2");
const parts = partsOf(section);

let shown = null;
let known = null;
let isOutdated = false;

const crops = endless({
  list: parts.items,
  foot: parts.foot,
  async fetchPage(cursor, signal) {
    const query = new URLSearchParams({ limit: PAGE, cursor });
    const { items, next_cursor } = await get(`${identityPath(shown)}/items?${query}`, { signal });
    return { entries: items, next_cursor };
  },
  card: (item) => itemCard(item, { withPerson: false }),
  empty: () => ["This person has no crop."],
});
const selection = selectable(parts.items, parts.bar);
const history = corrections({ list: parts.history, foot: parts["history-foot"], identity: () => shown });

onShow("person", (state) => {
  const id = state.get("id") ?? "";
  if (id === shown && !isOutdated) return;
  if (id !== shown) clear();
  shown = id;
  isOutdated = false;
  load(id);
});

function clear() {
  shown = known = null;
  heading.textContent = "Person";
  parts.page.hidden = true;
  for (const list of [crops, history]) list.clear();
  for (const part of [parts.message, parts.lanes, parts.visits, parts.facts]) part.replaceChildren();
  selection.none();
}

async function load(id) {
  const people = make("a", { href: "#people" }, "people");
  if (!id) return showMessage(parts.message, "Choose somebody among the ", people, ".");
  showMessage(parts.message, "Loading.");
  section.ariaBusy = "true";
  try {
    const path = identityPath(id);
    const [person, timeline] = await Promise.all([get(path), get(`${path}/timeline`)]);
    if (id !== shown) return;
    known = person;
    show(person, timeline);
    selection.none();
    crops.begin();
    if (may("all-cameras")) history.begin();
  } catch (problem) {
    if (id !== shown) return;
    const again = make("button", { type: "button" }, "Try again");
    again.addEventListener("click", () => load(id));
    if (problem.status === 404) parts.page.hidden = true;
    const more = problem.status === 404 ? make("a", { href: "#people" }, "All people") : again;
    showProblem(parts.message, problem, more);
  } finally {
    if (id === shown) section.ariaBusy = "false";
  }
}

function show({ id, name, notes, attributes, num_items, first_seen, last_seen }, { visits, num_untimed, next_cursor }) {
  parts.message.replaceChildren();
  heading.replaceChildren(named(name ?? id));
  entitle(name ?? id);
  const facts = [
    name ? ["Id", named(id)] : null,
    ["Crops", num_items.toLocaleString()],
    first_seen ? ["First seen", time(first_seen)] : null,
    last_seen ? ["Last seen", time(last_seen)] : null,
    ...Object.entries(attributes).map(([key, value]) => [named(key), named(value)]),
    notes ? ["Notes", make("bdi", { className: "notes" }, notes)] : null,
  ].filter(Boolean);
  parts.facts.replaceChildren(...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  parts.review.href = address("review", { of: id });
  parts.lanes.replaceChildren(...(visits.length ? lanes(visits) : []));
  parts.visits.replaceChildren(...visits.map(visitEntry));
  parts.list.hidden = !visits.length;
  const rest = [
    visits.length ? null : "No crop of this person has a time.",
    visits.length && num_untimed ? `${count(num_untimed, "crop")} without a time.` : null,
    next_cursor ? `Only the first ${count(visits.length, "visit")} are shown.` : null,
  ];
  showMessage(parts.rest, rest.filter(Boolean).join(" "));
  parts.page.hidden = false;
}

/** Do something with the selected crops, or with the person, and take the selection away if it was done. */
const on = (part, act) => press(part, async () => {
  if (await act()) selection.none();
}, parts.trouble);
on(parts.describe, () => describePerson(known));
on(parts.merge, () => mergePerson(known));
on(parts.delete, () => deletePerson(known.id));
on(parts.erase, () => erasePeople([known.id]));
on(parts.split, () => splitItems(known, selection.chosen()));
on(parts.reject, () => rejectItems(known, selection.chosen()));
on(parts.edit, () => editItems(selection.chosen()));
on(parts["delete-items"], () => deleteItems(selection.chosen()));
parts.all.addEventListener("click", selection.all);

document.addEventListener("gallery-changed", () => { isOutdated = true; });
document.addEventListener("service-back", () => {
  if (shown !== null && parts.page.hidden) load(shown);
});
document.addEventListener("other-caller", clear);
