// The form that asks for the token. The token goes to the session alone: never to an address, a cookie or a disk.

import { session } from "./api.js";
import { element } from "./dom.js";

/** Show the form in a place, with a reason. entered: called once a token is there to be tried. */
export function askForToken(place, reason, entered) {
  if (place.querySelector("form")) {
    place.querySelector("[role=alert]").textContent = reason;
    return;
  }
  const input = element("input", { id: "token", type: "password", autocomplete: "off", required: true, spellcheck: "false" });
  const submit = (event) => {
    event.preventDefault();
    session.token = input.value.trim();
    place.replaceChildren();
    entered();
  };
  place.replaceChildren(
    element(
      "form",
      { class: "panel login", method: "post", submit },
      element("h2", {}, "Token"),
      element("p", { role: "alert" }, reason),
      element("label", { for: "token" }, "Value of http_server.auth_token, or of admin_token to silence alerts"),
      input,
      element("button", { type: "submit" }, "Show the figures"),
      element("p", { class: "hint" }, "It is kept for this tab until you close it or log out."),
    ),
  );
  input.focus();
}
