// Errors of the service in words of people, for those that somebody meets who works beside others.

const CHANGED = "Somebody else has changed the gallery in the meantime.";
const BARRED = "Your key does not allow this";

const WORDS = {
  identity_not_found: {
    title: "This person is not in the gallery any more",
    message: `${CHANGED} The person was merged with another one, deleted or erased.`,
  },
  item_not_found: {
    title: "This crop is not in the gallery any more",
    message: `${CHANGED} The crop was deleted or erased.`,
  },
  item_elsewhere: {
    title: "Not all of these crops show this person any more",
    message: `${CHANGED} They have given some of the crops to another person. Nothing was changed now.`,
  },
  operation_not_found: {
    title: "This correction is not known any more",
    message: "A person of the correction was erased, and the correction with them.",
  },
  cannot_undo: ({ message }) => ({
    title: "This cannot be taken back any more",
    message: `${CHANGED} ${sentence(message.replace(/^the operation cannot be undone: /, ""))}`,
  }),
  count_differs: ({ num_items }) => ({
    title: "Nothing was deleted",
    message: `${CHANGED} The filters let ${num_items?.toLocaleString()} crops through now. Look at them again first.`,
  }),
  role_too_low: { title: BARRED, message: "Sign in with a key of a higher role, or ask somebody who has one." },
  camera_forbidden: {
    title: BARRED,
    message: "The key is for some cameras only, and this concerns others, or people whom others have seen.",
  },
  suggestions_busy: {
    title: "Too many compare people at this moment",
    message: "People are compared for one person at a time. Try again in some seconds.",
  },
};

const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;

/** Return the title and the message of a problem in words of people, or those of the service. */
export function inWords(problem) {
  const words = WORDS[problem.code];
  if (!words) return problem;
  return { ...(typeof words === "function" ? words(problem) : words), request_id: problem.request_id };
}

/** Return whether a problem says that somebody else has changed what the page shows. */
export const isOutdated = ({ status }) => [404, 409, 410, 412].includes(status);
