// Editing crops: their person, camera, time and track, of one crop or of many at once.

import { get, post, send } from "./api.js";
import { ask, say } from "./dialogs.js";
import { count, make } from "./dom.js";
import { offerPeople } from "./names.js";
import { may } from "./session.js";

const FIELDS = {
  identity_id: { label: "Person", maxLength: 255, autocomplete: "off" },
  camera_id: { label: "Camera", maxLength: 255, autocomplete: "off", list: "camera-names" },
  captured_at: { label: "Captured at", type: "datetime-local", step: 1 },
  track_id: { label: "Track", maxLength: 255, autocomplete: "off" },
};
const MIXED = "different";

/** Ask for other values of the fields of crops, and change them. Return whether something was changed. */
export function editItems(items) {
  const fields = Object.entries(FIELDS).map(([name, properties]) => fieldOf(name, properties, items));
  const told = [
    make("p", {}, items.length === 1 ? "A field that you empty becomes unknown." : "A change goes to all of them. " +
      "A field in which they differ is empty, and stays as it is."),
    make("div", { className: "fields" }, ...fields),
    make("p", {}, "A crop without a person becomes a person of its own. You can take the change back afterwards."),
  ];
  const act = (form, tell) => change(items, changesOf(form), tell);
  const asked = ask({ title: `Edit ${count(items.length, "crop")}`, told, yes: "Save", act });
  offerPeople(document.querySelector("#question [name=identity_id]"));
  return asked;
}

function fieldOf(name, { label, list, ...properties }, items) {
  const values = new Set(items.map((item) => shownValue(name, item)));
  const value = values.size === 1 ? [...values][0] : "";
  const input = make("input", { name, ...properties, value, placeholder: values.size > 1 ? MIXED : "unknown" });
  input.dataset.before = input.value; // the browser shortens a time
  if (list) input.setAttribute("list", list);
  return make("label", {}, label, input);
}

function shownValue(name, item) {
  const value = item[name] ?? "";
  return name === "captured_at" && value ? localTime(new Date(value)) : value;
}

/** Return a time as a field takes it, in the time zone of the browser: 2026-03-01T13:00:00. */
export function localTime(at) {
  const local = new Date(at.getTime() - at.getTimezoneOffset() * 60_000);
  return local.toISOString().slice(0, 19);
}

/** Return the fields that were changed in a form, in the form of the API. */
function changesOf(form) {
  const inputs = Object.keys(FIELDS).map((name) => form.elements[name]);
  const changed = inputs.filter(({ value, dataset }) => value !== dataset.before);
  return Object.fromEntries(changed.map(({ name, value, type }) => {
    const isTime = type === "datetime-local" && value;
    return [name, isTime ? new Date(value).toISOString() : value || null];
  }));
}

async function change(items, changes, tell) {
  if (!Object.keys(changes).length) return;
  const made = [];
  try {
    for (const item of items) {
      tell(`${made.length.toLocaleString()} of ${count(items.length, "crop")} changed.`);
      made.push({ before: item, after: await send("PATCH", `gallery/${item.id}`, { json: changes }) });
    }
  } finally {
    if (made.length) tellChanged(made, changes);
  }
}

function tellChanged(made, changes) {
  const canUndo = !("identity_id" in changes) || may("operator", "all-cameras");
  const warnings = made.flatMap(({ after }) => after.warnings.map(({ detail }) => ` ${detail}.`)).slice(0, 1);
  const told = [`${count(made.length, "crop")} changed.`, ...warnings];
  say(told, canUndo ? () => undo(made, Object.keys(changes)) : null);
  const items = made.map(({ after }) => after);
  document.dispatchEvent(new CustomEvent("gallery-changed", { detail: { items } }));
}

/** Give crops their former values, unless somebody else has changed these crops since. */
async function undo(made, names) {
  const others = names.filter((name) => name !== "identity_id");
  for (const { before, after } of made.toReversed()) {
    if (after.operation_id) await post(`operations/${after.operation_id}/undo`);
    const now = await get(`gallery/${before.id}`);
    const own = others.filter((name) => now[name] === after[name]);
    const json = Object.fromEntries(own.map((name) => [name, before[name]]));
    if (own.length) await send("PATCH", `gallery/${before.id}`, { json });
  }
}
