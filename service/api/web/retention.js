// The expiry that waits for a person: told above everything, with the button that lets it go on.

import { get, post } from "./api.js";
import { make, time } from "./dom.js";
import { when } from "./jobs.js";

const place = document.querySelector("#retention");
let shown = "";

/** Show the expiry that waits, if one does; `summary` is what /readyz says of it. */
export async function showHeld(summary) {
  const state = JSON.stringify(summary ?? null);
  if (state === shown) return;
  const isAsked = summary && place.checkVisibility(); // a key for some cameras may not ask
  const held = isAsked ? (await get("retention")).held : null;
  place.replaceChildren(...(held ? [panel(held)] : []));
  shown = state;
}

document.addEventListener("other-caller", () => {
  place.replaceChildren();
  shown = "";
});

function panel({ as_of, detail, since }) {
  const told = make("div");
  const button = make("button", { type: "button", "data-needs": "admin" }, "Erase these items");
  const element = make("article", { className: "job failed", role: "alert" },
    make("strong", {}, "An expiry waits for an admin"), make("p", {}, detail),
    make("p", {}, "Waiting since ", time(since), "."), told, button);
  when(button, async () => {
    if (!confirm(`${detail}.\n\nErase them for good?`)) return;
    await post("retention/confirm", { json: { as_of } });
    element.remove();
  }, told);
  return element;
}
