// Draws the API page from the document beside it, light or dark. It stands before the page, so that none flashes up white.

// As in the dashboard: what was chosen there, else what the browser prefers.
const prefersDark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => {
  const chosen = document.cookie.match(/(?:^|; )theme=(light|dark)(?:;|$)/)?.[1];
  document.documentElement.classList.toggle("dark-mode", chosen ? chosen === "dark" : prefersDark.matches);
};
setTheme();
prefersDark.addEventListener("change", setTheme);

document.addEventListener("DOMContentLoaded", () => {
  window.ui = SwaggerUIBundle({
    url: "/docs/api/openapi.json",
    dom_id: "#api",
    deepLinking: true,
    tryItOutEnabled: true,
    // The default asks a service elsewhere to check the document.
    validatorUrl: null,
    presets: [SwaggerUIBundle.presets.apis],
  });
});
