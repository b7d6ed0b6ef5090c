// The search: crops of one person, the matches as cards, and the timeline of the identity on a card.

import { fieldsOf, get, identityPath, post, Problem } from "./api.js";
import { personAddress } from "./route.js";
import {
  count, duration, make, partsOf, picture, showFiles, showMessage, showProblem, takeFiles, time,
} from "./dom.js";

const MOST_UNTIMED = 60;
const PATIENCE_S = 20;

const section = document.querySelector("#search");
const form = document.querySelector("#search-form");
const dialog = document.querySelector("#identity");
const parts = partsOf(section);
const shown = partsOf(dialog);

let crops = [];
let running = new AbortController();

/** Search for the chosen crops. What was found before goes at once, since it shows another person. */
async function search() {
  forget();
  if (!crops.length) return showMessage(parts.message, "Choose a crop first.");
  const own = running;
  const late = `the service has not answered within ${PATIENCE_S} seconds`;
  const timer = setTimeout(() => own.abort(new Problem({ title: "No answer", detail: late })), PATIENCE_S * 1000);
  const fields = fieldsOf(form);
  for (const crop of crops) fields.append("images", crop);
  section.ariaBusy = "true";
  showMessage(parts.message, "Searching.");
  try {
    const answer = await post("search", { form: fields, signal: own.signal });
    if (own !== running) return;
    showMessage(parts.message, ...summary(answer));
    parts.matches.replaceChildren(...answer.matches.map(card));
  } catch (problem) {
    if (own !== running) return;
    showProblem(parts.message, problem, isWorthAnother(problem) ? again() : null);
  } finally {
    clearTimeout(timer);
  }
  section.ariaBusy = "false";
}

/** Take away what was found, and let no answer come that is still awaited. */
function forget() {
  running.abort();
  running = new AbortController();
  section.ariaBusy = "false";
  parts.message.replaceChildren();
  parts.matches.replaceChildren();
}

const isWorthAnother = ({ status }) => status === undefined || status === 429 || status >= 500;

function again() {
  const button = make("button", { type: "button" }, "Try again");
  button.addEventListener("click", search);
  return button;
}

function summary({ num_searched, num_identities, took_ms, model_version, matches, calibration }) {
  if (!num_searched) {
    const enrol = make("a", { href: "#enrol" }, "enrol crops");
    const mayEnrol = make("span", { "data-needs": "operator" }, enrol, ", or ");
    return ["No item passes the filters: ", mayEnrol, "remove filters."];
  }
  const people = num_identities === undefined ? "" : ` of ${count(num_identities, "person", "people")}`;
  const among = `${count(matches.length, "match", "matches")} among ${count(num_searched, "item")}${people}`;
  const by = `${among} in ${took_ms.toFixed(0)} ms by network `;
  return [by, make("code", {}, model_version), `.${decided(calibration)}`];
}

/** Say what the decisions of a search go by. */
function decided({ source, num_people, match_below } = {}) {
  if (!source) return "";
  if (source === "none") return " No decisions: evaluate the network under Networks to get them.";
  const counted = source === "evaluation" ? "of this gallery" : "for the network's card";
  const by = `counted on ${count(num_people, "person", "people")} ${counted}`;
  return ` A match is what fewer than ${strangers(match_below)} would reach by chance, ${by}.`;
}

/** Say how many strangers are expected by chance, such as "1 stranger in 40 such galleries". */
function strangers(expected) {
  if (expected >= 1) return `${count(rounded(expected), "stranger")} in this gallery`;
  const galleries = Math.min(rounded(1 / expected), 1e6);
  return galleries < 2 ? "1 stranger in this gallery"
    : `1 stranger in ${galleries.toLocaleString()} such galleries`;
}

/** Round to two digits, and to a whole number. */
const rounded = (value) => Math.round(Number(value.toPrecision(2)));

function card({ identity_id, score, expected_strangers, decision, items }) {
  const [best, ...others] = items;
  const button = make("button", { type: "button", className: "card" },
    picture(best.id, "best crop"),
    make("span", { className: "name", title: identity_id }, identity_id),
    make("span", { className: "score" },
      decision ? make("span", { className: `tag ${decision}` }, decision) : null,
      make("small", { title: "cosine of the embeddings" }, score.toFixed(3))),
    isKnown(expected_strangers)
      ? make("span", { className: "strangers", title: "how many people would look as alike by chance" },
        `about ${strangers(expected_strangers)}`) : null,
    where(best),
    others.length ? make("span", { className: "strip" }, ...others.map((item) => picture(item.id))) : null);
  button.addEventListener("click", () => showIdentity(identity_id));
  return make("li", {}, button);
}

const isKnown = (value) => value !== undefined && value !== null;

/** Return an element that names the camera and the time of an item. */
export function where({ camera_id, captured_at }) {
  return make("span", { className: "where" },
    camera_id ? make("span", { className: "name" }, camera_id) : "camera unknown",
    captured_at ? time(captured_at) : null);
}

/** Show the timeline of an identity in a dialog. */
export async function showIdentity(id) {
  dialog.dataset.identity = dialog.querySelector("h2").textContent = id;
  shown.person.href = personAddress(id);
  showMessage(shown.message, "Loading.");
  shown.visits.replaceChildren();
  shown.untimed.replaceChildren();
  if (!dialog.open) dialog.showModal();
  try {
    const path = identityPath(id);
    const [known, { visits, num_untimed, next_cursor }] = await Promise.all([get(path), get(`${path}/timeline`)]);
    const { items } = num_untimed ? await get(`${path}/items?limit=1000`) : { items: [] };
    if (dialog.dataset.identity !== id) return;
    const attributes = Object.entries(known.attributes).map((pair) => pair.join(": "));
    const facts = [known.name, count(known.num_items, "item"), ...attributes];
    showMessage(shown.message, facts.filter(Boolean).join(" · "));
    const later = next_cursor ? [make("li", {}, `Only the first ${count(visits.length, "visit")}.`)] : [];
    shown.visits.replaceChildren(...visits.map(visit), ...later);
    const untimed = items.filter((item) => !item.captured_at).slice(0, MOST_UNTIMED);
    const title = num_untimed ? [make("p", {}, `${count(num_untimed, "item")} without a time`)] : [];
    shown.untimed.replaceChildren(...title, ...untimed.map((item) => picture(item.id, item.camera_id ?? "")));
  } catch (problem) {
    if (dialog.dataset.identity === id) showProblem(shown.message, problem);
  }
}

shown.person.addEventListener("click", () => dialog.close());
document.addEventListener("other-caller", () => {
  forget();
  dialog.dataset.identity = "";
  dialog.close();
});

function visit({ camera_id, first, last, num_items, item_id, gap_s }) {
  const seconds = (new Date(last) - new Date(first)) / 1000;
  const gap = gap_s === null ? "" : `, ${duration(gap_s)} after the previous visit`;
  return make("li", {}, picture(item_id), make("div", {},
    make("strong", { className: "name" }, camera_id ?? "camera unknown"),
    make("p", {}, time(first), seconds ? ` for ${duration(seconds)}` : ""),
    make("small", {}, count(num_items, "item") + gap)));
}

function take(files) {
  crops = files;
  showFiles(parts.chosen, files);
  search();
}

takeFiles(form.querySelector(".drop"), take);
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length && section.checkVisibility()) take([...event.clipboardData.files]);
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  search();
});
