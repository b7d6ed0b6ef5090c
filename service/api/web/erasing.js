// Erasing people, so that no trace of them stays on the disk, and the receipts of erasures.

import { get, identityPath, send } from "./api.js";
import { ask } from "./dialogs.js";
import { count, make, named, partsOf, time } from "./dom.js";

export const FINAL = "Nothing can take this back.";

const MOST_NAMED = 5;

const dialog = document.querySelector("#receipts");
const parts = partsOf(dialog);

let url = "";

/** Return elements that name the first people of a list, and say how many more there are. */
export function shortly(names) {
  const shown = names.slice(0, MOST_NAMED).flatMap((name, i) => [i ? ", " : "", named(name)]);
  const others = names.length - MOST_NAMED;
  return others > 0 ? [...shown, ` and ${count(others, "more person", "more people")}`] : shown;
}

/** Ask whether to erase people with all their crops, erase them, and show the receipts. */
export async function erasePeople(ids) {
  const people = await Promise.all(ids.map((id) => get(identityPath(id))));
  const num = people.reduce((sum, { num_items }) => sum + num_items, 0);
  const what = `${count(people.length, "person", "people")} with ${count(num, "crop")}`;
  const receipts = [];
  const isDone = await ask({
    title: `Erase ${count(people.length, "person", "people")} for good?`,
    told: [
      make("p", {}, `This erases ${what}, also the crops that are not selected:`),
      make("ul", { className: "listed" }, ...people.map(({ id, name, num_items }) =>
        make("li", {}, named(name ?? id), `: ${count(num_items, "crop")}`))),
      make("p", {}, "Crops, names, notes, corrections and what the audit says of them go from the disk. " +
        "The service writes its files again meanwhile, which can take a minute. ", FINAL),
    ],
    yes: `Erase ${what}`,
    isHarmful: true,
    async act(_form, tell) {
      for (const { id } of people.slice(receipts.length)) {
        tell(`${receipts.length} of ${count(people.length, "person", "people")} erased.`);
        receipts.push(await send("DELETE", `${identityPath(id)}?mode=erase`));
      }
    },
  });
  if (receipts.length) {
    document.dispatchEvent(new Event("gallery-changed"));
    showReceipts(receipts);
  }
  return isDone;
}

function showReceipts(receipts) {
  parts.list.replaceChildren(...receipts.map((receipt) => make("li", {}, receiptText(receipt))));
  URL.revokeObjectURL(url);
  const file = fileOf(receipts);
  url = file.href;
  parts.file.replaceChildren(file);
  dialog.showModal();
}

/** Return what a receipt says, as an element. A receipt has no name, so that it can be kept. */
export function receiptText({ sequence, at, reason, erased, item_ids, out_of_reach }) {
  const why = { requested: "", retention: ", because of its age", restored: ", again after a restore" }[reason];
  const facts = [`${count(erased.items, "crop")} erased${why}, `, time(at)];
  const wait = erased.cleaned ? null : make("p", {}, "The service still cleans the database file.");
  return make("div", {}, make("strong", {}, `Receipt ${sequence}`), make("p", {}, ...facts), wait,
    make("details", {}, make("summary", {}, "Details"),
      make("p", {}, "Crops: ", make("code", {}, item_ids.join(" "))),
      make("p", {}, "Out of reach of the service:"),
      make("ul", { className: "listed" }, ...out_of_reach.map((one) => make("li", {}, one)))));
}

/** Return a link that downloads receipts in the form that `reid restore --erasures` takes. */
export function fileOf(receipts) {
  const numbers = receipts.map(({ sequence }) => sequence).join("-");
  const text = JSON.stringify(receipts.map(({ request_id, ...receipt }) => receipt), null, 2);
  const href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  return make("a", { href, download: `erasure-${numbers.slice(0, 100)}.json` }, "Download");
}

dialog.addEventListener("close", () => {
  URL.revokeObjectURL(url);
  parts.list.replaceChildren();
});
document.addEventListener("other-caller", () => dialog.close());
