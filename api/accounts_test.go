package api_test

import (
	"crypto/x509"
	"errors"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fleetca/fleetca/api/client"
	"github.com/fleetca/fleetca/ca"
	"github.com/fleetca/fleetca/enroll"
)

const password = "CANARY-password-of-many-letters-7f3a9c" // known to leaktest

// bearer returns a client with an API token.
func (f *fleet) bearer(t *testing.T, token string) *client.Client {
	t.Helper()
	c, err := client.New(client.Config{Server: f.people.URL, Token: client.Secret(token), CA: []*x509.Certificate{f.root}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// TestAccounts: a user is added, logs in, works, logs out, and is disabled.
func TestAccounts(t *testing.T) {
	f, ctx, name := shared, t.Context(), unique("eve-")
	admin := f.client(t, f.people, enroll.RoleAdmin, nil)
	n := enroll.NewUser{Name: name, Role: enroll.RoleOperator, Password: password}
	u, err := admin.AddUser(ctx, n, client.IdempotencyKey("add "+name))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := admin.AddUser(ctx, n, client.IdempotencyKey("add "+name)); err != nil || again.CreatedAt != u.CreatedAt {
		t.Errorf("%+v, %v", again, err)
	}
	_, err = admin.AddUser(ctx, n)
	isKind(t, err, enroll.KindConflict, "name")
	_, err = admin.AddUser(ctx, enroll.NewUser{Name: name, Role: enroll.RoleOperator, Password: "short"})
	isKind(t, err, ca.KindMalformed, "password")

	nobody := f.client(t, f.people, "", nil)
	login, err := nobody.Login(ctx, name, password, "")
	if err != nil {
		t.Fatal(err)
	}
	eve := f.bearer(t, login.Token)
	who, err := eve.Whoami(ctx)
	if err != nil || who.User != name || who.Actor != "user:"+name || who.Role != enroll.RoleOperator || who.TokenID != login.ID {
		t.Fatalf("%+v, %v", who, err)
	}
	_, err = eve.AddUser(ctx, n)
	isKind(t, err, enroll.KindForbidden, "")
	if ended, err := eve.Logout(ctx); err != nil || !ended.Disabled {
		t.Errorf("%v, %v", ended, err)
	}
	_, err = eve.Whoami(ctx)
	isKind(t, err, enroll.KindUnauthenticated, "Authorization")

	if _, err := admin.ResetPassword(ctx, name, "another "+password); err != nil {
		t.Error(err)
	}
	_, err = admin.ResetPassword(ctx, "none", password)
	isKind(t, err, ca.KindNotFound, "name")
	again, err := nobody.Login(ctx, name, "another "+password, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := admin.SetRole(ctx, name, enroll.RoleAuditor); err != nil || got.Role != enroll.RoleAuditor {
		t.Errorf("%+v, %v", got, err)
	}
	_, err = f.bearer(t, again.Token).Whoami(ctx) // with the role of before
	isKind(t, err, enroll.KindUnauthenticated, "Authorization")
	_, err = admin.SetRole(ctx, name, "king")
	isKind(t, err, ca.KindMalformed, "role")
	_, err = admin.SetRole(ctx, "none", enroll.RoleAuditor)
	isKind(t, err, ca.KindNotFound, "name")
	if got, err := admin.DisableUser(ctx, name); err != nil || !got.Disabled {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := admin.EnableUser(ctx, name); err != nil || got.Disabled {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := admin.User(ctx, name); err != nil || got.Name != name || got.LastLoginAt == nil {
		t.Errorf("%+v, %v", got, err)
	}
	if !slices.ContainsFunc(collect(t, admin.Users(ctx)), func(u *enroll.User) bool { return u.Name == name }) {
		t.Error("the user is not in the list")
	}
}

// TestLoginLimit: guessing answers 401, then 429 with Retry-After, and says
// nothing of whether there is such a user.
func TestLoginLimit(t *testing.T) {
	f, name := shared, unique("none-")
	body := `{"name":"` + name + `","password":"wrong password"}`
	for n := range 6 {
		resp, text := f.raw(t, http.MethodPost, f.people.URL+"/api/v1/login", body)
		want := http.StatusUnauthorized
		if n == 5 {
			want = http.StatusTooManyRequests
		}
		if resp.StatusCode != want || strings.Contains(text, name) || n == 5 && resp.Header.Get("Retry-After") == "" {
			t.Errorf("attempt %d: %d %s", n, resp.StatusCode, text)
		}
	}
	// The address is free for the other tests, once the wait of the fifth ends.
	time.Sleep(time.Second)
	if err := f.store.RefundLogin(t.Context(), slices.Repeat([]enroll.LoginCharge{{Subject: "address:127.0.0.1/32"}}, 5)); err != nil {
		t.Fatal(err)
	}
}

// TestTokens: a program's token is made, bound to a work order, listed and
// revoked.
func TestTokens(t *testing.T) {
	f, ctx, order := shared, t.Context(), unique("bound-")
	admin := f.client(t, f.people, enroll.RoleAdmin, nil)
	if _, err := admin.CreateWorkOrder(ctx, enroll.NewWorkOrder{ID: order, Product: "pump", Quantity: 1}); err != nil {
		t.Fatal(err)
	}
	n := enroll.NewAPIToken{Name: "line 3", Role: enroll.RoleFactory, WorkOrder: order, ExpiresIn: "1h"}
	made, err := admin.CreateAPIToken(ctx, n, client.IdempotencyKey("token "+order))
	if err != nil {
		t.Fatal(err)
	}
	if again, err := admin.CreateAPIToken(ctx, n, client.IdempotencyKey("token "+order)); err != nil || again.Token != made.Token {
		t.Errorf("%v, %v", again, err)
	}
	line := f.bearer(t, made.Token)
	if who, err := line.Whoami(ctx); err != nil || who.WorkOrder != order || who.User != "" {
		t.Errorf("%+v, %v", who, err)
	}
	id := unique("bound-device-")
	_, csr := newRequest(t, id)
	_, err = line.Enroll(ctx, enroll.EnrollRequest{DeviceID: id, CSR: csr, WorkOrder: "another"})
	isKind(t, err, enroll.KindForbidden, "workOrder")
	if _, err = line.Enroll(ctx, enroll.EnrollRequest{DeviceID: id, CSR: csr, WorkOrder: order}); err != nil {
		t.Error(err)
	}
	if got, err := admin.APIToken(ctx, made.ID); err != nil || got.Token != "" || got.WorkOrder != order {
		t.Errorf("%v, %v", got, err)
	}
	for _, listed := range collect(t, admin.APITokens(ctx)) {
		if listed.Token != "" {
			t.Error("a listed token shows its secret")
		}
	}
	for range 2 {
		if ended, err := admin.RevokeAPIToken(ctx, made.ID); err != nil || !ended.Disabled {
			t.Errorf("%v, %v", ended, err)
		}
	}
	_, err = line.Whoami(ctx)
	isKind(t, err, enroll.KindUnauthenticated, "Authorization")
	_, err = admin.RevokeAPIToken(ctx, "none")
	isKind(t, err, ca.KindNotFound, "id")
	_, err = admin.CreateAPIToken(ctx, enroll.NewAPIToken{Name: "n", Role: enroll.RoleAdmin, ExpiresIn: "9000h"})
	isKind(t, err, ca.KindMalformed, "expiresIn")
	_, err = admin.CreateAPIToken(ctx, enroll.NewAPIToken{Name: "n", Role: "king"})
	if !errors.Is(err, ca.IsKind(ca.KindMalformed)) {
		t.Error(err)
	}
}
