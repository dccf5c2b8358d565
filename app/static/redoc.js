// Redoc over the server's own description, at /redoc. Its script is that of the package fastapi-offline.
"use strict";

(() => {
  // Redoc shows its maker's logo from its maker's server. Nothing here is loaded from elsewhere: as if it were not there.
  const { set } = Object.getOwnPropertyDescriptor(HTMLImageElement.prototype, "src");
  function own(value) {
    if (value.startsWith("data:") || new URL(value, location.href).origin === location.origin) set.call(this, value);
    else setTimeout(() => this.dispatchEvent(new Event("error")));
  }
  Object.defineProperty(HTMLImageElement.prototype, "src", { set: own });
  HTMLImageElement.prototype.setAttribute = function (name, value) {
    if (name === "src") own.call(this, value);
    else Element.prototype.setAttribute.call(this, name, value);
  };
  const box = document.getElementById("docs");
  Redoc.init(box.dataset.src, { disableSearch: true, hideLoading: true }, box); // its search is a worker that it writes itself
})();
