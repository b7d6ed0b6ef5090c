// Questions before an action, and what was done, with the button that takes it back.

import { make, partsOf, showProblem } from "./dom.js";
import { focusHeading } from "./route.js";
import { isOutdated } from "./words.js";

const question = document.querySelector("#question");
const form = question.querySelector("form");
const parts = partsOf(question);
const done = document.querySelector("#done");

let answer = null;

/** Ask in a dialog, do what was asked about while the dialog is open, and return whether it was done.
 *
 * `told` are elements, which may have fields. `act` gets the form with the fields, and a function that shows how
 * far it is. If `act` fails, the dialog shows why and stays, so that nothing that was typed is lost. If somebody
 * else has changed what the question is about, the section is shown again. */
export function ask({ title, told, yes, isHarmful = false, act }) {
  parts.title.textContent = title;
  parts.told.replaceChildren(...told);
  parts.message.replaceChildren();
  parts.yes.textContent = yes;
  parts.yes.className = isHarmful ? "harmful" : "main";
  parts.no.textContent = "Cancel";
  question.showModal();
  (parts.told.querySelector("input, textarea") ?? parts.no).focus();
  return new Promise((resolve) => {
    answer = { act, resolve, isDone: false, isRunning: false };
  });
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const own = answer;
  if (own.isRunning) return;
  setRunning(own, true);
  parts.message.replaceChildren();
  try {
    await own.act(form, (text) => parts.message.replaceChildren(make("p", {}, text)));
    own.isDone = true;
    question.close();
  } catch (problem) {
    if (answer !== own) return;
    showProblem(parts.message, problem);
    if (isOutdated(problem)) document.dispatchEvent(new Event("gallery-changed"));
  } finally {
    setRunning(own, false);
  }
});

// The button is not disabled in the sense of HTML, as it would lose the focus.
function setRunning(own, isRunning) {
  own.isRunning = isRunning;
  parts.yes.ariaDisabled = String(isRunning);
}

form.addEventListener("input", () => {
  if (!answer?.isRunning) parts.message.replaceChildren(); // the cause of an error is being mended
});
parts.no.addEventListener("click", () => question.close());
question.addEventListener("cancel", (event) => {
  if (answer?.isRunning) event.preventDefault(); // Escape would hide how the action ends
});
question.addEventListener("close", () => {
  const { resolve, isDone } = answer;
  answer = null;
  parts.told.replaceChildren();
  resolve(isDone);
});

/** Call `act` when a button is clicked, and show in `place` why it has failed. */
export function press(button, act, place) {
  button.addEventListener("click", async () => {
    place.replaceChildren();
    try {
      await act();
    } catch (problem) {
      showProblem(place, problem);
    }
  });
}

/** Say what was done, and offer to take it back by `undo`; null if nothing can take it back. */
export function say(told, undo = null) {
  const dismiss = make("button", { type: "button" }, "Dismiss");
  dismiss.addEventListener("click", forget);
  const button = undo && make("button", { type: "button", className: "main" }, "Undo");
  const message = make("div");
  const text = make("p", {}, ...told);
  let isUndoing = false;
  button?.addEventListener("click", async () => {
    if (isUndoing) return;
    isUndoing = true;
    try {
      await undo();
      say(["Taken back: ", ...told]);
    } catch (problem) {
      if (isOutdated(problem)) complain(problem);
      else showProblem(message, problem);
    }
    isUndoing = false;
    document.dispatchEvent(new Event("gallery-changed"));
  });
  const hadFocus = done.contains(document.activeElement);
  done.replaceChildren(text, ...[button, dismiss].filter(Boolean), message);
  done.hidden = false;
  if (hadFocus) dismiss.focus();
}

/** Say at the place of what was done that something was not, because somebody else was faster. */
export function complain(problem) {
  say([]);
  showProblem(done.querySelector("div"), problem);
}

function forget() {
  const hadFocus = done.contains(document.activeElement);
  done.hidden = true;
  done.replaceChildren();
  if (hadFocus) focusHeading();
}

document.addEventListener("other-caller", () => {
  forget();
  if (question.open) question.close();
});
