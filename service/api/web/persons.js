// Corrections of a person: description, merge, split, and "not the same". The last three can be taken back.

import { get, identityPath, post, send } from "./api.js";
import { ask, say } from "./dialogs.js";
import { count, make, named } from "./dom.js";
import { offerPeople } from "./names.js";
import { go } from "./route.js";

const MOST_NOTES = 10_000;

const changed = () => document.dispatchEvent(new Event("gallery-changed"));
const nameOf = ({ id, name }) => named(name ?? id);

/** Return what takes an operation back. */
export const undoOf = ({ operation_id }) => () => post(`operations/${operation_id}/undo`);

/** Ask for the name, notes and attributes of a person, and store them. */
export function describePerson(person) {
  const pairs = Object.entries(person.attributes).map((pair) => pair.join("=")).join("\n");
  const attributes = make("textarea", { name: "attributes", rows: 3, value: pairs });
  return ask({
    title: "Describe this person",
    told: [make("div", { className: "fields column" },
      make("label", {}, "Name",
        make("input", { name: "name", maxLength: 255, autocomplete: "off", value: person.name ?? "" })),
      make("label", {}, "Notes",
        make("textarea", { name: "notes", rows: 4, maxLength: MOST_NOTES, value: person.notes ?? "" })),
      make("label", {}, "Attributes, one in a line, such as coat=red", attributes))],
    yes: "Save",
    async act({ elements }) {
      const before = person;
      const json = {
        name: elements.name.value.trim() || null,
        notes: elements.notes.value || null,
        attributes: attributesOf(elements.attributes.value),
      };
      await send("PATCH", identityPath(person.id), { json });
      const former = { name: before.name, notes: before.notes, attributes: before.attributes };
      say(["The description was saved."], () => send("PATCH", identityPath(person.id), { json: former }));
      changed();
    },
  });
}

function attributesOf(text) {
  const lines = text.split("\n").map((line) => line.trim()).filter(Boolean);
  const wrong = lines.find((line) => !/^[^=]+=./.test(line));
  if (wrong) throw new Error(`“${wrong}” is no attribute: write the name, =, and the value, such as coat=red.`);
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

/** Ask who gets crops of a person, and split them off. */
export function splitItems(person, items) {
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
