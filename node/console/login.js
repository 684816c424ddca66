// Who asks: the form, and the button that shows who it is.

import { ApiError, getJson, onUnauthorized, signIn } from "./api.js";
import { byId, show } from "./dom.js";

/** Who is signed in and what they may do. */
export const session = { user: null, permissions: [] };

/** Whether one of the permissions that something needs is missing. */
export const may = (...needed) => session.permissions.includes("all") || needed.every((one) => session.permissions.includes(one));

const ask = async () => Object.assign(session, await getJson("/console/session", { quiet: true }));

/** Calls `enter` when the member lets somebody in, and `leave` when it no longer does. */
export async function startLogin(enter, leave) {
  const [dialog, form, user, password, error] =
    ["login", "login-form", "login-user", "login-password", "login-error"].map(byId);
  const asked = (message) => {
    error.textContent = message;
    show(error, message !== "");
    if (!dialog.open) dialog.showModal();
    (user.value ? password : user).focus();
  };
  const entered = () => {
    if (dialog.open) dialog.close();
    password.value = "";
    const button = byId("user");
    show(button, session.user !== null);
    button.textContent = session.user ?? "";
    button.title = `Signed in as ${session.user}: sign out`;
    enter();
  };
  const left = (message) => {
    signIn(null);
    show(byId("user"), false);
    leave();
    asked(message);
  };
  // Without a session there is nothing behind the form to go back to.
  dialog.addEventListener("cancel", (event) => event.preventDefault());
  byId("user").addEventListener("click", () => left(""));
  onUnauthorized(() => ask().catch((failure) => {
    if (failure.kind === "unauthorized") left("You are not signed in any more.");
  }));
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    signIn(user.value, password.value);
    try {
      await ask();
      if (session.user === user.value) entered();
      else {
        signIn(null);
        asked("Wrong user name or password.");
      }
    } catch (failure) {
      signIn(null);
      password.select();
      const wrong = failure instanceof ApiError && failure.kind === "unauthorized";
      asked(wrong ? "Wrong user name or password, or this user may not use the console (permission “ui”)." : `Cannot sign in: ${failure.message}.`);
    }
  });
  for (;;) {
    try {
      await ask();
      return entered();
    } catch (failure) {
      if (failure.kind === "unauthorized") return asked("");
      byId("pill-text").textContent = failure.message;
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}
