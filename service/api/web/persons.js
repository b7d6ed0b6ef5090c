// Corrections of a person: description, merge, split, and "not the same". The last three can be taken back.

import { get, identityPath, post, Problem, send } from "./api.js";
import { ask, say } from "./dialogs.js";
import { count, make, named } from "./dom.js";
import { offerPeople } from "./names.js";
import { go } from "./route.js";

const MOST_NOTES = 10_000;
const MOST_CROPS = 1_000;

const changed = () => document.dispatchEvent(new Event("gallery-changed"));
const nameOf = ({ id, name }) => named(name ?? id);

/** Return what takes an operation back. */
export const undoOf = ({ operation_id }) => () => post(`operations/${operation_id}/undo`);

/** Ask for the name, notes and attributes of a person, and store those that were changed. */
export function describePerson(person) {
  const before = { name: person.name ?? "", notes: person.notes ?? "", attributes: linesOf(person.attributes) };
  const text = (name, rows, properties) => make("textarea", { name, rows, value: before[name], ...properties });
  return ask({
    title: "Describe this person",
    told: [make("div", { className: "fields column" },
      make("label", {}, "Name",
        make("input", { name: "name", maxLength: 255, autocomplete: "off", value: before.name })),
      make("label", {}, "Notes", text("notes", 4, { maxLength: MOST_NOTES })),
      make("label", {}, "Attributes, one in a line, such as coat=red", text("attributes", 3)))],
    yes: "Save",
    async act({ elements }) {
      const names = Object.keys(before).filter((name) => elements[name].value.trim() !== before[name]);
      if (names.length) await describe(person, names, elements);
    },
  });
}

const linesOf = (attributes) => Object.entries(attributes).map((pair) => pair.join("=")).join("\n");
const only = (names, values) => Object.fromEntries(names.map((name) => [name, values[name]]));

async function describe(person, names, { name, notes, attributes }) {
  const json = only(names, {
    name: name.value.trim() || null,
    notes: notes.value || null,
    attributes: attributesOf(attributes.value),
  });
  const after = await send("PATCH", identityPath(person.id), { json });
  say(["The description was saved."], async () => {
    const now = await get(identityPath(person.id));
    if (JSON.stringify(only(names, now)) !== JSON.stringify(only(names, after))) {
      throw new Problem({ title: "This was not taken back", detail: "Somebody else has described the person since." });
    }
    await send("PATCH", identityPath(person.id), { json: only(names, person) });
  });
  changed();
}

function attributesOf(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const wrong = lines.find((line) => !/^[^=]+=./.test(line));
  if (wrong) {
    const detail = `“${wrong}” is no attribute: write the name, =, and the value, such as coat=red.`;
    throw new Problem({ title: "Nothing was saved", detail });
  }
  return Object.fromEntries(lines.map((line) => line.split(/=(.*)/s).slice(0, 2).map((part) => part.trim())));
}

/** Ask for another person, and merge this person into that one. */
export function mergePerson(person) {
  const input = make("input", { name: "identity_id", maxLength: 255, required: true, autocomplete: "off" });
  const asked = ask({
    title: "Merge this person into another",
    told: [
      make("p", {}, "All ", count(person.num_items, "crop"), " of ", nameOf(person),
        " go to the other person, whose name and notes stay. What the other one lacks is taken from this one."),
      make("div", { className: "fields" }, make("label", {}, "The other person, by name or id", input)),
      make("p", {}, "You can take the merge back afterwards."),
    ],
    yes: "Merge",
    async act({ elements }) {
      const other = await get(identityPath(elements.identity_id.value.trim()));
      if (other.id === person.id) throw new Problem({ title: "Nothing was merged", detail: "Choose another person." });
      await merge(person, other);
      go("person", { id: other.id });
    },
  });
  offerPeople(input);
  return asked;
}

/** Merge a person into another one, and offer to take it back. Returns the operation. */
export async function merge(person, other) {
  const operation = await post(`${identityPath(other.id)}/merge`, { json: { source_ids: [person.id] } });
  say([nameOf(person), " was merged into ", nameOf(other), "."], undoOf(operation));
  changed();
  return operation;
}

function requireFew(items) {
  const detail = `Select at most ${count(MOST_CROPS, "crop")} at once.`;
  if (items.length > MOST_CROPS) throw new Problem({ title: "Too many crops", detail });
}

/** Ask who gets crops of a person, and split them off. */
export function splitItems(person, items) {
  requireFew(items);
  const input = make("input", { name: "identity_id", maxLength: 255, autocomplete: "off" });
  input.placeholder = "a new person";
  const crops = count(items.length, "crop");
  const asked = ask({
    title: `Split ${crops} off`,
    told: [
      make("p", {}, `${crops} of `, nameOf(person), " go to the person named here, or to a new one together."),
      make("div", { className: "fields" }, make("label", {}, "Who gets them, by name or id", input)),
      make("p", {}, "You can take the split back afterwards."),
    ],
    yes: "Split off",
    async act({ elements }) {
      const json = { item_ids: items.map(({ id }) => id), identity_id: elements.identity_id.value.trim() || null };
      const operation = await post(`${identityPath(person.id)}/split`, { json });
      say([`${crops} split off `, nameOf(person), "."], undoOf(operation));
      changed();
    },
  });
  offerPeople(input);
  return asked;
}

/** Ask whether crops do not show a person, and record that. */
export function rejectItems(person, items) {
  requireFew(items);
  const crops = count(items.length, "crop");
  return ask({
    title: `Are these ${crops} not this person?`,
    told: [
      make("p", {}, `${crops} leave `, nameOf(person), " for new people, those of one track together."),
      make("p", {}, "The service then never takes them for this person again: searches with them pass this person by, ",
        "and they are not suggested as one. You can take that back afterwards."),
    ],
    yes: "Not the same person",
    async act() {
      const json = { item_ids: items.map(({ id }) => id) };
      const operation = await post(`${identityPath(person.id)}/reject`, { json });
      say([nameOf(person), ` is not on ${crops} any more.`], undoOf(operation));
      changed();
    },
  });
}
