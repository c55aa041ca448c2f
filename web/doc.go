// Package web is the dashboard, for people: pages made on the server, one
// typed struct and one template each, styled by one sheet, with one small script
// that nothing but liveness and keys depend on.
//
// # The way of a request
//
//  1. The table of routes names, for each page and form, the permission that it
//     takes (enroll.Permission, the same that REST asks), whether it can be
//     watched, and its handler. A page shows no button that would be refused.
//  2. admit finds the session of the cookie, or sends the visitor to sign in.
//     Forms from other origins are refused by http.CrossOriginProtection before.
//  3. The handler asks package enroll and returns an answer: a page, a redirect,
//     a file. It writes nothing.
//  4. The answer is rendered to a buffer, then written whole. A form that was
//     refused is the same page again, with the error at its field and what
//     mends it. An error without a kind never shows its text.
//
// # Sessions
//
// A session is a random secret in a __Host- cookie (Secure, HttpOnly,
// SameSite=Strict), new at each sign-in, stored hashed, ended when it is idle,
// at its absolute limit, and with the user's password. See enroll.SignIn.
//
// # Live pages
//
// A page whose route is live can be watched: GET /live?page=PATH is a stream of
// server-sent events (HTML Standard, section 9.2), each the page's main part
// anew whenever that changed. It is looked at when an audit event says that
// something did, on whatever replica, and every few seconds for what has none. The script puts the parts that differ in place of
// the old ones. What a page shows is made in one place, watched or not.
//
// # Safety
//
// Everything a certificate, a device or a user can carry is hostile: only
// html/template writes it. The Content-Security-Policy allows our own script
// and sheet, nothing inline, no frame and no other origin.
package web
