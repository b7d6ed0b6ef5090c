// A crop seen large, over the section that is shown. The address has the crop as `item`.

import { get } from "./api.js";
import { deleteItems } from "./deleting.js";
import { count, make, named, partsOf, showMessage, showProblem, time } from "./dom.js";
import { editItems } from "./editing.js";
import { described, largeAddress, stateOf } from "./items.js";
import { onShow, personAddress, place, restate } from "./route.js";

const SECTIONS = ["gallery", "person"];

const dialog = document.querySelector("#crop");
const parts = partsOf(dialog);

let shown = null;

for (const name of SECTIONS) {
  onShow(name, (state) => {
    const id = state.get("item");
    if (!id) dialog.close();
    else if (id !== shown?.id || !dialog.open) show(id);
  });
}
window.addEventListener("hashchange", () => {
  if (!SECTIONS.includes(place().section.id)) dialog.close();
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
  const { id, identity_id, camera_id, captured_at, created_at, track_id, width, height, image_url } = item;
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
    ...(item.duplicate_of ? [["Nearly the same as", large(item.duplicate_of)]] : []),
  ];
  parts.facts.replaceChildren(...facts.flatMap(([term, value]) => [make("dt", {}, term), make("dd", {}, value)]));
  parts.actions.hidden = false;
}

const large = (id) => make("a", { href: largeAddress(id) }, "another crop of this camera");

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
