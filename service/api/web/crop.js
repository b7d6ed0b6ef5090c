// A crop seen large, over the section that is shown. The address has the crop as `item`.

import { get } from "./api.js";
import { deleteItems } from "./deleting.js";
import { count, make, named, partsOf, showMessage, showProblem, time } from "./dom.js";
import { editItems } from "./editing.js";
import { described, stateOf } from "./items.js";
import { address, personAddress, place, restate } from "./route.js";

const SECTIONS = ["gallery", "person"];

const dialog = document.querySelector("#crop");
const parts = partsOf(dialog);

let shown = null;

document.addEventListener("arrived", ({ detail: { section, state } }) => {
  const id = SECTIONS.includes(section.id) ? state.get("item") : null;
  if (!id) return dialog.close();
  if (id !== shown?.id || !dialog.open) show(id);
});

async function show(id) {
  shown = { id };
  parts.message.replaceChildren();
  parts.facts.replaceChildren();
  parts.frame.replaceChildren();
  parts.actions.hidden = true;
  offerSteps();
  if (!dialog.open) dialog.showModal();
  try {
    const item = await get(`gallery/${id}`);
    if (shown?.id === id) showItem(item);
  } catch (problem) {
    if (shown?.id === id) showProblem(parts.message, problem);
  }
}

function showItem(item) {
  shown = item;
  const { id, identity_id, camera_id, captured_at, created_at, track_id, width, height, duplicate_of, image_url } = item;
  if (image_url) {
    const image = make("img", { src: `gallery/${id}/image`, alt: described(item), width, height });
    image.addEventListener("error", () => showMessage(parts.frame, "The crop cannot be read."));
    parts.frame.replaceChildren(image);
  } else {
    showMessage(parts.frame, "The crop was not kept.");
  }
  const unknown = "unknown";
  const facts = [
    ["Person", make("a", { href: personAddress(identity_id) }, named(identity_id))],
    ["Camera", camera_id ? named(camera_id) : unknown],
    ["Captured at", captured_at ? time(captured_at) : unknown],
    ["Track", track_id ? named(track_id) : unknown],
    ["Enrolled at", time(created_at)],
    ["Size", `${width} × ${height} pixels`],
    duplicate_of ? ["Nearly the same", make("a", { href: largeIn(duplicate_of) }, "another crop of this camera")] : null,
  ].filter(Boolean);
  parts.facts.replaceChildren(...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  parts.actions.hidden = false;
}

const largeIn = (id) => address(place().section.id, { ...stateOf(place().state), item: id });

/** Return the id of the crop so many places after the one that is shown, in the list of the section. */
function neighbour(step) {
  const ids = [...place().section.querySelectorAll("[data-item]")].map((link) => link.dataset.item);
  const at = ids.indexOf(shown.id);
  return at < 0 ? undefined : ids[at + step];
}

function offerSteps() {
  for (const [step, part] of [[-1, parts.previous], [1, parts.next]]) part.disabled = !neighbour(step);
  // A disabled button takes no keys, and these would be lost.
  if (document.activeElement?.disabled) parts.close.focus();
}

function go(step) {
  const id = neighbour(step);
  if (id) restate({ ...stateOf(place().state), item: id });
}

document.addEventListener("grown", () => {
  if (shown) offerSteps();
});
parts.previous.addEventListener("click", () => go(-1));
parts.next.addEventListener("click", () => go(1));
dialog.addEventListener("keydown", ({ key }) => {
  if (key === "ArrowLeft" || key === "k") go(-1);
  if (key === "ArrowRight" || key === "j") go(1);
});
parts.close.addEventListener("click", () => dialog.close());
dialog.addEventListener("close", () => {
  shown = null;
  const { section, state } = place();
  if (SECTIONS.includes(section.id) && state.has("item")) restate({ ...stateOf(state), item: [] });
});
parts.edit.addEventListener("click", async () => {
  if (await editItems([shown])) show(shown.id);
});
parts.delete.addEventListener("click", async () => {
  if (await deleteItems([shown])) dialog.close();
});
document.addEventListener("other-caller", () => dialog.close());
