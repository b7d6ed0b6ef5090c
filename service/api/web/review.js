// The review of suggestions: two people at a time who may be one, and what somebody says of them.

import { get, identityPath, post } from "./api.js";
import { count, make, named, partsOf, picture, showMessage, showProblem } from "./dom.js";
import { described, sighting } from "./items.js";
import { undoOf } from "./persons.js";
import { onShow, personAddress } from "./route.js";
import { isOutdated } from "./words.js";

const PAGE = 20;

const section = document.querySelector("#review");
const parts = partsOf(section);

let of = null;
let pairs = [];
let decided = []; // the newest last: the pair, and the operation that "undo" takes back, if there is one
let later = new Set();
let isBusy = false;
let hasFailed = false;
let running = new AbortController();

onShow("review", (state) => {
  const wanted = state.get("of") ?? "";
  if (wanted === of) return;
  clear();
  of = wanted;
  parts.whole.hidden = !of;
  load();
});

function clear() {
  running.abort();
  running = new AbortController();
  of = null;
  hasFailed = false;
  pairs = [];
  decided = [];
  later = new Set();
  parts.pair.hidden = true;
  parts.message.replaceChildren();
  parts.people.replaceChildren();
}

const keyOf = ({ identities }) => identities.map(({ identity_id }) => identity_id).sort().join("\n");

/** Fetch pairs and show the first. Pairs that were put off come last. */
async function load() {
  const own = running;
  hasFailed = false;
  parts.pair.hidden = true;
  section.ariaBusy = "true";
  showMessage(parts.message, "Comparing people.");
  try {
    const query = new URLSearchParams({ of, limit: PAGE + later.size });
    const { suggestions } = await get(`identities/suggestions?${query}`, { signal: own.signal });
    if (own !== running) return;
    pairs = suggestions.filter((pair) => !later.has(keyOf(pair)));
    await showNext();
  } catch (problem) {
    if (own !== running) return;
    hasFailed = true;
    const again = make("button", { type: "button" }, "Try again");
    again.addEventListener("click", load);
    showProblem(parts.message, problem, again);
  } finally {
    if (own === running) section.ariaBusy = "false";
  }
}

/** Show the first of the pairs that wait, with what is known of both now. */
async function showNext() {
  const own = running;
  const [pair] = pairs;
  if (!pair) return showEnd();
  try {
    const sides = await Promise.all(pair.identities.map(async ({ identity_id, item_id }) => {
      const [person, item] = await Promise.all([get(identityPath(identity_id)), get(`gallery/${item_id}`)]);
      return { person, item };
    }));
    if (own !== running || pair !== pairs[0]) return;
    show(pair, sides);
  } catch (problem) {
    if (own !== running) return;
    if (!isOutdated(problem)) throw problem;
    pairs.shift(); // somebody else has merged or deleted one of the two
    await showNext();
  }
}

function showEnd() {
  const hadFocus = parts.pair.contains(document.activeElement);
  parts.pair.hidden = true;
  const what = of ? "No other person looks like this one." : "No two people look alike any more.";
  const rest = later.size ? make("button", { type: "button" }, `Show ${count(later.size, "pair")} put off`) : "";
  if (rest) {
    rest.addEventListener("click", () => {
      later = new Set();
      load();
    });
  }
  showMessage(parts.message, decided.length || later.size ? "That was the last pair. " : `${what} `, rest);
  if (hadFocus) (rest || section).focus();
}

function show(pair, sides) {
  parts.message.replaceChildren();
  const [kept, gone] = inOrder(sides);
  pair.kept = kept.person;
  pair.gone = gone.person;
  parts.people.replaceChildren(...[kept, gone].map(side));
  parts.score.textContent = `Likeness ${pair.score.toFixed(2)} of 1. ${count(pairs.length, "pair")} in this list.`;
  parts.takes.replaceChildren(`“Same” gives ${count(gone.person.num_items, "crop")} of `, nameOf(gone.person),
    " to ", nameOf(kept.person), ". “Different” is remembered. Both can be taken back.");
  parts.pair.hidden = false;
  if (document.activeElement === document.body) section.focus();
}

/** Return the one who stays in a merge first: who has a name, or more crops, or came first. */
function inOrder(sides) {
  const rank = ({ person: { name, num_items, created_at } }) => [name ? 0 : 1, -num_items, created_at];
  return [...sides].sort((a, b) => {
    const [one, other] = [rank(a), rank(b)];
    const place = one.findIndex((value, i) => value !== other[i]);
    return place < 0 ? 0 : one[place] < other[place] ? -1 : 1;
  });
}

const nameOf = ({ id, name }) => named(name ?? id);

function side({ person, item }) {
  return make("li", {}, picture(item.id, described(item), 512),
    make("h3", {}, make("a", { href: personAddress(person.id) }, nameOf(person))),
    make("p", {}, count(person.num_items, "crop")), sighting(item));
}

const ACTS = {
  async same({ kept, gone }) {
    const operation = await post(`${identityPath(kept.id)}/merge`, { json: { source_ids: [gone.id] } });
    pairs = pairs.filter((pair) => !keyOf(pair).split("\n").includes(gone.id));
    return { operation, told: [nameOf(gone), " was merged into ", nameOf(kept), "."] };
  },
  async different(pair) {
    const { kept, gone, identities } = pair;
    const { item_id } = identities.find(({ identity_id }) => identity_id === gone.id);
    const operation = await post(`${identityPath(kept.id)}/reject`, { json: { item_ids: [item_id] } });
    pairs.shift();
    return { operation, told: [nameOf(gone), " and ", nameOf(kept), " are different people."] };
  },
  async later(pair) {
    later.add(keyOf(pair));
    pairs.shift();
    return { told: ["The pair was put off."] };
  },
};

async function decide(how) {
  const [pair] = pairs;
  if (isBusy || !pair || parts.pair.hidden) return;
  isBusy = true;
  try {
    const { operation, told } = await ACTS[how](pair);
    decided.push({ pair, operation });
    parts.told.replaceChildren(...told);
    if (operation) changed();
    await (pairs.length ? showNext() : load());
  } catch (problem) {
    showProblem(parts.message, problem);
    if (isOutdated(problem)) await load();
  } finally {
    isBusy = false;
  }
}

/** Take the newest decision back, and show its pair again. */
async function undo() {
  const last = decided.at(-1);
  if (isBusy) return;
  if (!last) return showMessage(parts.told, "There is nothing to take back.");
  isBusy = true;
  try {
    if (last.operation) await undoOf(last.operation)();
    decided.pop();
    later.delete(keyOf(last.pair));
    pairs.unshift(last.pair);
    parts.told.textContent = "Taken back.";
    if (last.operation) changed();
    await showNext();
  } catch (problem) {
    if (isOutdated(problem)) decided.pop();
    showProblem(parts.message, problem);
  } finally {
    isBusy = false;
  }
}

let isOwnChange = false;

function changed() {
  isOwnChange = true;
  document.dispatchEvent(new Event("gallery-changed"));
  isOwnChange = false;
}

// The keys work while the focus is in this section, so that no key typed elsewhere decides about people.
const KEYS = { 1: () => decide("same"), 2: () => decide("different"), 3: () => decide("later"), u: undo };
section.addEventListener("keydown", (event) => {
  const act = KEYS[event.key.toLowerCase()];
  if (!act || event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, textarea, select")) return;
  event.preventDefault();
  act();
});
for (const how of Object.keys(ACTS)) parts[how].addEventListener("click", () => decide(how));
parts.undo.addEventListener("click", undo);

document.addEventListener("gallery-changed", () => {
  if (!isOwnChange) of = null;
});
document.addEventListener("service-back", () => {
  if (hasFailed) load();
});
document.addEventListener("other-caller", clear);
