// Who is signed in: the form for the key, the line with the name, and what the page shows to this caller.
//
// An element with `data-needs` is shown only while `data-may` of the body has all of its words. The words are the roles,
// `all-cameras`, and `key` or `open`, which tell whether the gallery has keys. The style sheet hides the other
// elements and nothing removes them, so a form keeps what was typed while the page waits for a key.

import { get, post, Problem, send } from "./api.js";
import { count, make, partsOf, showProblem } from "./dom.js";
import { when } from "./jobs.js";
import { place } from "./route.js";

const ROLES = ["reader", "operator", "admin"];
const MOST_CAMERAS = 5;

const dialog = document.querySelector("#sign-in");
const form = dialog.querySelector("form");
const who = document.querySelector("#who");
const parts = partsOf(dialog);

let shownTo = "";
let signedInAt = 0;

/** Return whether the page waits for a key. */
export const isSignedOut = () => dialog.open;

/** Return whether the caller has all of these words in `data-may`. */
export function may(...words) {
  const all = (document.body.dataset.may ?? "").split(" ");
  return words.every((word) => all.includes(word));
}

/** Ask who is signed in, show what this caller may see, and return the caller. Throws Problem. */
export async function askWho() {
  const caller = await get("session");
  show(caller);
  return caller;
}

function show({ is_open, name, role, cameras }) {
  const roles = ROLES.slice(0, ROLES.indexOf(role) + 1);
  document.body.dataset.may = [...roles, cameras ? "" : "all-cameras", is_open ? "open" : "key"].join(" ");
  const caller = JSON.stringify([is_open, name, role, cameras]);
  const isOther = caller !== shownTo;
  if (isOther) {
    who.replaceChildren(make("b", { className: "name" }, name), ` · ${role}`, ...limits(cameras ?? []));
    // The modules then discard what the service has answered to somebody else.
    if (shownTo) document.dispatchEvent(new Event("other-caller"));
    shownTo = caller;
  }
  if (dialog.open) closeForm();
  leaveHidden();
  if (isOther) document.dispatchEvent(new Event("caller"));
}

function limits(cameras) {
  if (!cameras.length) return [];
  const names = make("span", { className: "name" }, cameras.slice(0, MOST_CAMERAS).join(", "));
  const others = cameras.length - MOST_CAMERAS;
  return [" · only ", names, others > 0 ? ` and ${count(others, "more camera")}` : ""];
}

/** Go to the search if the address names a section that is not shown to this caller. */
function leaveHidden() {
  if (!place().section.checkVisibility() && !isSignedOut()) location.hash = "search";
}

// The browser gives the focus to the field of the modal dialog, and then back to the element that had it. So the
// dialog opens before the other elements are hidden, and closes after they are shown.
function openForm() {
  dialog.showModal();
  delete document.body.dataset.may;
}

function closeForm() {
  dialog.close();
  parts.message.replaceChildren();
  const { activeElement } = document;
  if (activeElement === document.body || !activeElement.checkVisibility()) document.querySelector("nav a").focus();
}

function showWhy({ code, message }) {
  // Browsers drop the cookie after 12 hours. The service then asks for a key in words that are for programs.
  const detail = code === "key_invalid" ? message : "nobody is signed in here any more; sign in with a key";
  const kept = shownTo ? make("p", {}, "What you have typed and chosen is still here.") : null;
  showProblem(parts.message, new Problem({ title: "Signed out", detail }), kept);
}

document.addEventListener("refused", ({ detail: { problem, began } }) => {
  if (isSignedOut() || began < signedInAt) return;
  openForm();
  if (shownTo || problem.code === "key_invalid") showWhy(problem);
});

dialog.addEventListener("close", () => {
  if (!document.body.dataset.may) openForm(); // Escape closes a dialog, and signs nobody in
});

when(form, async () => {
  const answer = post("session", { json: { key: form.elements.key.value } });
  form.reset();
  form.elements.key.focus();
  const caller = await answer;
  signedInAt = performance.now();
  show(caller);
  document.dispatchEvent(new Event("signed-in"));
}, parts.message);

when(document.querySelector("#sign-out"), async () => {
  await send("DELETE", "session");
  location.reload();
}, document.querySelector("#sign-out-message"));

window.addEventListener("hashchange", leaveHidden);
