// Deleting crops and people. The service cannot take a deletion back, so that each one is asked about first.

import { get, identityPath, post, send } from "./api.js";
import { ask, say } from "./dialogs.js";
import { count, make, named } from "./dom.js";
import { FINAL, shortly } from "./erasing.js";

const TRACES = "Traces may stay in the files of the database until they are written again. " +
  "To leave none, erase the person instead.";

/** Ask whether to delete crops, and delete them. Return whether they are deleted. */
export function deleteItems(items) {
  const people = [...new Set(items.map(({ identity_id }) => identity_id))];
  const told = [
    make("p", {}, `This deletes ${count(items.length, "crop")} of `, ...shortly(people), ". ", FINAL),
    make("p", {}, "A person without a name or notes goes with the last crop."),
  ];
  return ask({
    title: `Delete ${count(items.length, "crop")}?`,
    told,
    yes: `Delete ${count(items.length, "crop")}`,
    isHarmful: true,
    act: (_form, tell) => deleteEach(items, tell),
  });
}

async function deleteEach(items, tell) {
  const deleted = [];
  try {
    for (const { id } of items) {
      tell(`${deleted.length.toLocaleString()} of ${count(items.length, "crop")} deleted.`);
      await send("DELETE", `gallery/${id}`).catch(unlessGone);
      deleted.push(id);
    }
  } finally {
    if (deleted.length) {
      say([`${count(deleted.length, "crop")} deleted.`]);
      document.dispatchEvent(new CustomEvent("gallery-changed", { detail: { deleted } }));
    }
  }
}

function unlessGone(problem) {
  if (problem.status !== 404) throw problem;
}

/** Count the crops that filters let through, ask whether to delete them, and delete exactly so many. */
export async function deleteMatching(filters) {
  const filter = Object.fromEntries(Object.entries(filters).map(([name, value]) =>
    [name, name.startsWith("captured_") ? value : [value]]));
  const { num_items } = await post("gallery/delete", { json: { filter, dry_run: true } });
  return ask({
    title: `Delete all ${count(num_items, "crop")} that pass the filters?`,
    told: [make("p", {}, "Also those further down that are not shown yet. ", FINAL)],
    yes: `Delete ${count(num_items, "crop")}`,
    isHarmful: true,
    act: () => deleteAll(filter, num_items),
  });
}

async function deleteAll(filter, num_items) {
  await post("gallery/delete", { json: { filter, expected_count: num_items } });
  say([`${count(num_items, "crop")} deleted.`]);
  document.dispatchEvent(new Event("gallery-changed"));
}

/** Ask whether to delete a person with all crops, and do it. Return whether the person is deleted. */
export async function deletePerson(id) {
  const { name, num_items } = await get(identityPath(id));
  return ask({
    title: "Delete this person?",
    told: [
      make("p", {}, "This deletes ", named(name ?? id), ` with ${count(num_items, "crop")}, name and notes. `, FINAL),
      make("p", {}, TRACES),
    ],
    yes: `Delete the person and ${count(num_items, "crop")}`,
    isHarmful: true,
    async act() {
      await send("DELETE", identityPath(id));
      say([named(name ?? id), ` was deleted with ${count(num_items, "crop")}.`]);
      document.dispatchEvent(new Event("gallery-changed"));
    },
  });
}
