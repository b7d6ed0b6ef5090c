// Jobs: a panel for each job, updated until the job ends, and the table of an evaluation.

import { get, send } from "./api.js";
import { count, duration, make, showProblem, warningList } from "./dom.js";

const DOING = { activation: "Activating", evaluation: "Evaluating", import: "Importing" };
const DONE = { succeeded: "done", failed: "failed", cancelled: "cancelled" };
const MEASURES = { "rank-1": "rank1", "rank-5": "rank5", mAP: "mAP", mINP: "mINP" };

const place = document.querySelector("#jobs");
const panels = new Map();

/** Show a job in a panel, which stays until the user dismisses it. */
export function follow(job) {
  if (!panels.has(job.id)) {
    panels.set(job.id, jobPanel(job.id));
    place.append(panels.get(job.id).element);
  }
  panels.get(job.id).update(job);
}

/** Show the jobs that are queued or running, such as those that were started before a reload. */
export async function findRunning() {
  try {
    const { jobs } = await get("jobs?state=queued&state=running");
    jobs.forEach(follow);
  } catch (problem) {
    if (problem.status !== 404) throw problem; // an older service does not list jobs
  }
}

/** Update the panels of running jobs. Return whether one of these jobs has just ended. */
export async function poll() {
  const running = [...panels].filter(([, panel]) => panel.runs);
  for (const job of await Promise.all(running.map(([id]) => get(`jobs/${id}`)))) follow(job);
  return running.some(([, panel]) => !panel.runs);
}

document.addEventListener("other-caller", () => {
  panels.clear();
  place.replaceChildren();
});

function jobPanel(id) {
  const title = make("strong");
  const bar = make("progress", { ariaLabel: "progress" });
  const status = make("p");
  const results = make("div");
  const message = make("div");
  const cancel = make("button", { type: "button", "data-needs": "operator" }, "Cancel");
  const dismiss = make("button", { type: "button", hidden: true }, "Dismiss");
  const element = make("article", {}, title, bar, status, results, message, cancel, dismiss);
  const panel = { element, runs: true, update };

  function update(job) {
    panel.runs = !(job.state in DONE);
    element.className = `job ${job.state}`;
    const ending = panel.runs ? "" : `: ${DONE[job.state]}`;
    const version = make("code", {}, job.model_version ?? "");
    title.replaceChildren(`${DOING[job.kind] ?? job.kind} `, version, ending);
    bar.hidden = cancel.hidden = !panel.runs;
    dismiss.hidden = panel.runs;
    if (job.total) Object.assign(bar, { max: job.total, value: job.done });
    status.textContent = job.error ?? progressOf(job);
    const compared = job.result?.versions ? comparison(job.result) : null;
    const shown = [compared, warningList(job.warnings ?? [], job.num_warnings)];
    results.replaceChildren(...shown.filter((one) => one !== null));
  }

  dismiss.addEventListener("click", () => {
    element.remove();
    panels.delete(id);
  });
  when(cancel, async () => update(await send("DELETE", `jobs/${id}`)), message);
  return panel;
}

function progressOf({ state, done, total, rate, seconds_left, kind, num_enrolled, num_existing, num_failed, skipped }) {
  if (state === "queued") return "waiting to start";
  const left = seconds_left ?? (rate > 0 ? (total - done) / rate : null);
  const facts = [`${done.toLocaleString()} of ${count(total, "item")}`];
  if (kind === "import") {
    const counts = { enrolled: num_enrolled, "there already": num_existing, failed: num_failed };
    const skips = Object.entries(skipped ?? {}).map(([what, num]) => [`skipped, ${what}`, num]);
    for (const [what, num] of [...Object.entries(counts), ...skips]) {
      if (num) facts.push(`${num.toLocaleString()} ${what}`);
    }
  }
  if (rate) facts.push(`${rate.toLocaleString()} a second`);
  if (state === "running" && total && left !== null) facts.push(`${duration(left)} left`);
  return facts.join(" · ");
}

/** Return a table, in percent, of the results of two versions on the same items, and of their difference. */
export function comparison({ versions, difference = {}, num_queries, num_items, active_version }) {
  const results = Object.values(versions);
  const names = Object.keys(versions).map((version) => make("th", { scope: "col" },
    make("code", {}, version), version === active_version ? " active" : ""));
  const line = (name, values, apart) => make("tr", {}, make("th", { scope: "row" }, name),
    ...values.map((value) => make("td", {}, percents(value))), make("td", {}, apart ? interval(apart) : ""));
  const measures = Object.entries(MEASURES).map(([name, key]) =>
    line(name, results.map((evaluation) => evaluation[key]), difference[key]));
  const hits = (results[0].thresholds ?? []).map(({ fmr }, i) =>
    line(`hit rate at FMR ${fmr}`, results.map(({ thresholds }) => thresholds[i].hit_rate * 100)));
  const head = make("tr", {}, make("td"), ...names, make("th", { scope: "col" }, "gain"));
  const among = `${count(num_queries, "query", "queries")} among ${count(num_items, "item")}, in percent`;
  return make("table", {}, make("caption", {}, among), head, ...measures, ...hits);
}

const percents = (value) => (Number.isFinite(value) ? value.toFixed(1) : "–");
const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(1);
const interval = ({ value, low, high }) => `${signed(value)} (${signed(low)} to ${signed(high)})`;

/** Call `act` when a button is pressed or a form is sent, and show a failure in `place`.
 *
 * The button is disabled until `act` has ended. */
export function when(element, act, place) {
  element.addEventListener(element.matches("button") ? "click" : "submit", async (event) => {
    event.preventDefault();
    const button = event.submitter ?? element;
    button.disabled = true;
    place.replaceChildren();
    try {
      await act();
      if (element.matches("details")) element.open = false;
    } catch (problem) {
      showProblem(place, problem, problem.comparison?.versions ? comparison(problem.comparison) : null);
      if (problem.job_id) get(`jobs/${problem.job_id}`).then(follow);
    } finally {
      button.disabled = false;
    }
  });
}
