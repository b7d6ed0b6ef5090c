// Model versions and the state of the service: asked for again and again and changed in place, so that a swap
// shows without a reload, whoever has begun it, and nobody loses what they are about to do.

import { get, post, send } from "./api.js";
import { count, make, mebibytes, partsOf, percent, takeFiles, tell, tellProblem, time } from "./dom.js";
import { findRunning, follow, poll, when } from "./jobs.js";
import { showHeld } from "./retention.js";

const TICK_MS = 1000;
const TICKS_A_REFRESH = 5;

const status = document.querySelector("#status");
const parts = partsOf(document.querySelector("#networks"));
const rows = new Map();

/** Ask for everything anew: the state of the service, its networks, and the jobs that run. */
export async function refresh() {
  try {
    const { model_version, runtime, num_items, held_expiry } = await get("readyz");
    const rest = ` on ${runtime} · ${count(num_items, "item")}`;
    status.replaceChildren("network ", make("code", {}, model_version), rest);
    status.className = "ready";
    showModels((await get("models")).models.toReversed());
    await showHeld(held_expiry);
    await findRunning();
  } catch (problem) {
    sayTrouble(problem);
  }
}

function sayTrouble(problem) {
  status.textContent = problem.message;
  status.className = "trouble";
}

function showModels(models) {
  for (const model of models) {
    if (!rows.has(model.version)) rows.set(model.version, modelRow(model));
    rows.get(model.version).update(model);
  }
  const wanted = models.map((model) => rows.get(model.version).element);
  const { children } = parts.models;
  if (children.length !== wanted.length || wanted.some((element, i) => children[i] !== element)) {
    parts.models.replaceChildren(...wanted);
  }
}

function modelRow({ version, architecture, embedding_size, card, created_at }) {
  const path = `models/${version}`;
  const tag = make("span");
  const facts = make("p");
  const coverage = make("progress", { max: 1, ariaLabel: "share of the items that it has embedded" });
  const told = make("div");
  const evaluate = make("button", { type: "button" }, "Evaluate");
  const remove = make("button", { type: "button" }, "Delete");
  const activation = activationForm();
  const size = `${card.height} × ${card.width} pixels, ${embedding_size} dimensions`;
  const element = make("li", {},
    make("h3", {}, make("code", {}, version), tag),
    make("p", {}, `${architecture}, ${size}, registered `, time(created_at)),
    coverage, facts, told,
    make("div", { className: "actions" }, evaluate, activation, remove,
      make("a", { href: `${path}/file`, download: `${version}.safetensors` }, "Download"),
      make("details", {}, make("summary", {}, "Card"), make("pre", {}, JSON.stringify(card, null, 2)))));

  const begin = (request) => async () => {
    follow(await request());
    await refresh();
  };
  const options = () => optionsOf(activation.querySelector("form"));
  when(evaluate, begin(() => post(`${path}/evaluate`)), told);
  when(activation, begin(() => post(`${path}/activate`, { json: options() })), told);
  when(remove, async () => {
    if (!confirm(`Delete network ${version} and the embeddings it has made?`)) return;
    await send("DELETE", path);
    await refresh();
  }, told);

  function update(model) {
    tag.textContent = model.state;
    tag.className = `tag ${model.state}`;
    coverage.value = model.coverage ?? 0;
    coverage.hidden = model.coverage === undefined;
    facts.textContent = factsOf(model).join(" · ");
    activation.hidden = remove.hidden = model.state === "active";
  }
  return { element, update };
}

function factsOf({ num_embedded, coverage, num_bytes, failure, evaluation }) {
  const facts = failure ? [failure] : [];
  const share = coverage === undefined ? "" : ` (${percent(coverage)})`;
  facts.push(`${count(num_embedded, "item")} embedded${share}`);
  if (num_bytes) facts.push(mebibytes(num_bytes));
  if (evaluation) {
    facts.push(`on this gallery rank-1 ${evaluation.rank1.toFixed(1)}, mAP ${evaluation.mAP.toFixed(1)}`);
  }
  return facts;
}

function activationForm() {
  const choice = (name, text) => make("label", {}, make("input", { type: "checkbox", name }), text);
  return make("details", {}, make("summary", {}, "Activate…"), make("form", {},
    make("label", {}, "Switch ", make("select", { name: "strategy" },
      make("option", { value: "backfill" }, "when every item is embedded"),
      make("option", { value: "compatible" }, "at once: it was trained to be compatible"))),
    choice("require_better", "only if it is not worse on this gallery"),
    choice("allow_missing", "leave out items whose crop is gone"),
    make("button", { className: "main" }, "Activate")));
}

function optionsOf({ elements: { strategy, require_better, allow_missing } }) {
  return {
    strategy: strategy.value,
    require_better: require_better.checked,
    allow_missing: allow_missing.checked,
  };
}

when(document.querySelector("#rollback"), async () => {
  if (!confirm("Go back to the network that was active before this one?")) return;
  follow(await post("models/rollback"));
  await refresh();
}, parts.told);

takeFiles(document.querySelector("#register-form .drop"), async ([file]) => {
  const form = new FormData();
  form.append("checkpoint", file);
  tell(parts.told, `Sending ${file.name}, ${mebibytes(file.size)}.`);
  try {
    const { version } = await post("models", { form });
    tell(parts.told, "Registered: ", make("code", {}, version), ".");
    await refresh();
  } catch (problem) {
    tellProblem(parts.told, problem);
  }
});

async function tick(number) {
  try {
    const isDue = number % TICKS_A_REFRESH === 0 || status.className !== "ready";
    if (await poll() || (isDue && !document.hidden)) await refresh();
  } catch (problem) {
    sayTrouble(problem);
  }
  setTimeout(tick, TICK_MS, number + 1);
}

tick(0);
