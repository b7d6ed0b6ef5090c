// Crops of the gallery: their cards, and what is known of them in words.

import { isolated, make, named, picture, time, timeText } from "./dom.js";
import { address, personAddress, place } from "./route.js";

/** Return the camera, the time and the person of a crop in one line, for those who do not see the crop. */
export function described({ camera_id, captured_at, identity_id }) {
  const camera = camera_id ? `camera ${isolated(camera_id)}` : "camera unknown";
  const at = captured_at ? timeText(captured_at) : "time unknown";
  return [camera, at, ...(identity_id ? [isolated(identity_id)] : [])].join(", ");
}

/** Return an element that says which camera saw a crop, and when. */
export function sighting({ camera_id, captured_at }) {
  return make("span", { className: "where" },
    camera_id ? make("span", {}, "camera ", named(camera_id)) : "camera unknown",
    captured_at ? time(captured_at) : "time unknown");
}

/** Return the card of a crop, with a checkbox that has the crop as `item`, and a link that shows the crop large. */
export function itemCard(item, { withPerson = true } = {}) {
  const words = described(item);
  const box = make("input", { type: "checkbox", ariaLabel: `Select the crop: ${words}`, "data-needs": "operator" });
  box.item = item;
  return make("li", { className: "tile" }, box,
    make("a", { href: largeAddress(item.id), "data-item": item.id, ariaLabel: `Show large: ${words}` },
      picture(item.id)),
    withPerson ? make("a", { href: personAddress(item.identity_id) }, named(item.identity_id)) : null,
    sighting(item));
}

/** Return the address that shows a crop large over the section that is shown. */
export function largeAddress(id) {
  const { section, state } = place();
  return address(section.id, { ...stateOf(state), item: id });
}

/** Return the state of an address as an object of lists. */
export function stateOf(state) {
  return Object.fromEntries([...new Set(state.keys())].map((key) => [key, state.getAll(key)]));
}
