// Corrections that people have made: who did what and when, each with the button that takes it back.

import { get, post } from "./api.js";
import { complain, press } from "./dialogs.js";
import { count, make, named, partsOf, time } from "./dom.js";
import { endless } from "./endless.js";
import { fileOf, receiptText } from "./erasing.js";
import { onShow, personAddress } from "./route.js";
import { may } from "./session.js";
import { isOutdated } from "./words.js";

const PAGE = 30;

/** Make an endless list of corrections, of one person if `identity` returns an id. */
export function corrections({ list, foot, identity }) {
  return endless({
    list,
    foot,
    async fetchPage(cursor, signal) {
      const query = new URLSearchParams({ identity_id: identity() ?? "", limit: PAGE, cursor });
      const { operations, next_cursor } = await get(`operations?${query}`, { signal });
      return { entries: operations, next_cursor };
    },
    card: operationEntry,
    empty: () => ["Nothing was corrected yet."],
  });
}

function operationEntry(operation) {
  const { operation_id, created_at, undone_at, by, undone_by } = operation;
  const message = make("div");
  const undo = make("button", { type: "button", "data-needs": "operator all-cameras" }, "Undo");
  const entry = make("li", { className: "correction" },
    make("p", {}, make("strong", {}, who(by, "Somebody")), " ", ...deed(operation), ". ",
      make("small", {}, time(created_at))),
    undone_at ? make("p", {}, "Taken back by ", who(undone_by, "somebody"), ", ", time(undone_at)) : undo,
    message);
  press(undo, async () => {
    try {
      await post(`operations/${operation_id}/undo`);
    } catch (problem) {
      if (!isOutdated(problem)) throw problem;
      complain(problem);
    }
    document.dispatchEvent(new Event("gallery-changed"));
  }, message);
  return entry;
}

const who = (name, otherwise) => (name ? named(name) : otherwise);

/** Return what an operation did, as the rest of a sentence that begins with who did it. */
function deed({ kind, identities, items, num_items }) {
  const crops = count(num_items, "crop");
  const to = linked([...new Set(items.map(({ to_id }) => to_id))]);
  const from = linked([...new Set(items.map(({ from_id }) => from_id))]);
  if (!num_items) {
    const people = linked(identities);
    if (kind === "reject") return ["said that other people's crops do not show ", ...people];
    return [`${WITHOUT_CROPS[kind]} `, ...people];
  }
  if (kind === "merge") return ["merged ", ...from, " into ", ...to, `: ${crops}`];
  if (kind === "split") return [`split ${crops} off `, ...from, ", which went to ", ...to];
  if (kind === "reject") {
    const said = `said that ${crops} ${num_items === 1 ? "does" : "do"} not show `;
    return [said, ...from, ", which went to ", ...to];
  }
  return [`gave ${crops} of `, ...from, " to ", ...to];
}

const WITHOUT_CROPS = { merge: "merged", split: "split", relabel: "moved a crop among" };

function linked(ids) {
  const links = ids.slice(0, 5).map((id) => make("a", { href: personAddress(id) }, named(id)));
  const others = ids.length > 5 ? [` and ${count(ids.length - 5, "more person", "more people")}`] : [];
  return [...links.flatMap((link, i) => (i ? [", ", link] : [link])), ...others];
}

const parts = partsOf(document.querySelector("#history"));
const all = corrections({ list: parts.operations, foot: parts.foot, identity: () => null });
const receipts = endless({
  list: parts.receipts,
  foot: parts["receipts-foot"],
  async fetchPage(cursor, signal) {
    const query = new URLSearchParams({ limit: PAGE, cursor });
    const { erasures, next_cursor } = await get(`erasures?${query}`, { signal });
    return { entries: erasures, next_cursor };
  },
  card: (receipt) => make("li", {}, receiptText(receipt), fileOf([receipt])),
  empty: () => ["Nobody was erased yet."],
});

let isShown = false;

onShow("history", () => {
  if (isShown) return;
  isShown = true;
  all.begin();
  if (may("admin", "all-cameras")) receipts.begin();
});
for (const kind of ["gallery-changed", "other-caller"]) {
  document.addEventListener(kind, () => {
    isShown = false;
    if (kind === "other-caller") [all, receipts].forEach((list) => list.clear());
  });
}
