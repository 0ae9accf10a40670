"use strict";
// the page is whole without it: buttons appear only here
for (const button of document.querySelectorAll("button.copier")) {
  button.hidden = false;
  const label = button.textContent;
  button.addEventListener("click", () => {
    const source = button.nextElementSibling;
    const selection = window.getSelection();
    selection.selectAllChildren(source);
    // the clipboard of a page from a disk is closed in some browsers, where the selection can still be copied
    const done = navigator.clipboard ? navigator.clipboard.writeText(source.textContent) : Promise.reject();
    done.catch(() => document.execCommand("copy")).then(() => {
      button.textContent = "Copied";
      window.setTimeout(() => { button.textContent = label; }, 1500);
    });
  });
}
